"""Loads a transformers model from disk, and refuses one with missing or unused weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from launcher.checkpoints.bounded import read_json_object
from launcher.checkpoints.finite import refuse_not_finite
from launcher.checkpoints.huggingface.code_keys import without_code
from launcher.checkpoints.parts import refuse_unplaced
from launcher.checkpoints.peft.changes import Adapter
from launcher.core import stage
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.engines.huggingface.merging import merge
from launcher.engines.huggingface.source import CONFIGURATIONS, Source
from launcher.engines.runtime.dtypes import torch_dtype
from launcher.engines.runtime.linear import replace_linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(source: Source, dtype: torch.dtype, device: torch.device, adapter: Adapter | None = None) -> PreTrainedModel:
    """Return the model in evaluation mode on ``device``, with an adapter merged into its weights.

    Loading downloads nothing, runs no code that comes with the weights, and reads no pickle. Raises `CheckpointError`,
    also for missing weights, and for stored weights that the model does not use.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with _seen(source) as folder, _reporting():
        try:
            first = dtype if adapter is None or torch_dtype(source.dtype) == dtype else torch.float32
            model, info = _from_pretrained(source, folder, first)
        except Exception as error:  # a model's own code may raise any exception
            reason = first_line(error).replace(str(folder), str(source.path))
            raise CheckpointError(f"{source.path}: transformers cannot load it: {reason}") from error
    _refuse_other_shapes(source, info)
    _refuse_incomplete(source, info)
    if source.layout == "gguf":
        refuse_unplaced(source.tensors, gguf_names(model, source), source.path)
    else:
        refuse_unplaced(set(info["unexpected_keys"]) & set(source.tensors), (), source.path)
    if adapter is not None:
        merge(model, adapter, source.path)
    replace_linears(model)
    made = model.to(device=device, dtype=None if adapter is None else dtype).eval().requires_grad_(False)
    refuse_not_finite(made.named_parameters(), source.path)
    return made


@contextmanager
def _reporting() -> Iterator[None]:
    """Report the tensors that transformers loads; it counts them for a progress bar, which is not drawn."""

    def counted(made: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items = _counted(given[0]) if given and isinstance(given[0], Collection) else None
        return made(*given, **options) if items is None else made(items, *given[1:], **options)

    before = logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _counted(items: Collection[Any]) -> Iterator[Any]:
    for number, item in enumerate(items):
        stage.report(number, len(items), "tensors")
        yield item
    stage.report(len(items), len(items), "tensors")


@contextmanager
def _seen(source: Source) -> Iterator[Path]:
    """Yield a folder that has only the model's own files: transformers would prefer others beside them.

    It prefers a ``model.safetensors`` to an index of other files, and applies an adapter. The configurations are
    written without the keys that may name a kernel.
    """
    with TemporaryDirectory(prefix="launcher-model-") as folder:
        for file in source.files or (source.path,):
            if file.name in CONFIGURATIONS:
                (Path(folder) / file.name).write_text(json.dumps(without_code(read_json_object(file, source.bounds))))
            else:
                (Path(folder) / file.name).symlink_to(file.resolve())
        yield Path(folder)


def _from_pretrained(source: Source, folder: Path, dtype: torch.dtype) -> tuple[Any, Mapping[str, Json]]:
    gguf = source.layout == "gguf"
    loaded: tuple[Any, Mapping[str, Json]] = AutoModelForCausalLM.from_pretrained(
        str(folder),
        gguf_file=source.path.name if gguf else None,
        dtype=dtype,
        use_safetensors=None if gguf else True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    return loaded


def gguf_names(model: PreTrainedModel, source: Source) -> set[str]:
    """Return the names of the stored tensors that transformers maps to parameters.

    It looks them up in the same table when it loads them, and silently skips the others.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(source.kind, TensorProcessor)(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    return {name for name in source.tensors if name in known or name.removesuffix(".weight") in known}


def _refuse_other_shapes(source: Source, info: Mapping[str, Json]) -> None:
    """Refuse tensors of other shapes than the configuration gives them, which transformers fills at random."""
    found = sorted(info["mismatched_keys"])
    if found:
        name, stored, needed = found[0]
        more = f", nor have {len(found) - 1} more theirs" if len(found) > 1 else ""
        raise CheckpointError(
            f"{source.path}: tensor '{name}' has shape {list(stored)}, not the {list(needed)} of the {source.kind} "
            f"model{more}; correct config.json"
        )


def _refuse_incomplete(source: Source, info: Mapping[str, Json]) -> None:
    missing = sorted(str(name) for name in info["missing_keys"])
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{source.path}: tensor '{missing[0]}' is missing{more} (the {source.kind} model needs it)"
        )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
