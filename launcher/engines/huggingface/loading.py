"""Loads a transformers model from disk, and refuses one whose weights are not all there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from launcher.core import Json
from launcher.engines.huggingface.source import Source
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(source: Source, dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, list[str]]:
    """Return the model, ready to compute, and the names of stored tensors that it has no use for.

    Nothing is fetched, no code that comes with the weights is run, and no pickle is read. Raises `CheckpointError`.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, info = _from_pretrained(source, dtype)
    except Exception as error:  # every model's own code may raise its own
        raise CheckpointError(f"{source.path}: transformers cannot load it: {first_line(error)}") from error
    _refuse_incomplete(source, info)
    return model.to(device).eval().requires_grad_(False), sorted(info["unexpected_keys"])


def _from_pretrained(source: Source, dtype: torch.dtype) -> tuple[Any, Mapping[str, Json]]:
    gguf = source.layout == "gguf"
    loaded: tuple[Any, Mapping[str, Json]] = AutoModelForCausalLM.from_pretrained(
        str(source.path.parent if gguf else source.path),
        gguf_file=source.path.name if gguf else None,
        dtype=dtype,
        use_safetensors=None if gguf else True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    return loaded


def _refuse_incomplete(source: Source, info: Mapping[str, Json]) -> None:
    missing = sorted(str(name) for name in info["missing_keys"])
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{source.path}: tensor '{missing[0]}' is missing{more} (the {source.kind} model needs it)"
        )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
