"""Megatron-core's distributed checkpoint format, ``torch_dist``: what is stored, and loading this rank's part of it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.checkpoints.inert_pickle import Record, read_index
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
DTYPES: Mapping[str, Literal["fp32", "bf16", "fp16"]] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

FUSED = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""Norms by the names that they have inside of the layers that TransformerEngine fuses them into."""


@dataclass(frozen=True)
class Stored:
    """A stored tensor: its whole shape over all ranks (layers stacked on axis 0) and torch's name of its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TensorStore:
    """The tensors of a ``torch_dist`` folder by the name under which they are stored."""

    folder: Path
    tensors: Mapping[str, Stored]

    @cached_property
    def prefix(self) -> str:
        """What stands before the model's own names: nothing, ``module.`` (NeMo 2.0) or ``model.`` (.nemo)."""
        return min((key for key in self.tensors if key.endswith(EMBEDDING)), key=len).removesuffix(EMBEDDING)

    @property
    def embedding(self) -> Stored:
        return self.tensors[self.prefix + EMBEDDING]

    @property
    def tied(self) -> bool:
        return self.prefix + OUTPUT not in self.tensors

    @property
    def dtype(self) -> Literal["fp32", "bf16", "fp16"]:
        try:
            return DTYPES[self.embedding.dtype]
        except KeyError:
            raise CheckpointError(
                f"{self.folder}: weights of type {self.embedding.dtype} (expected float32, bfloat16 or float16)"
            ) from None

    @property
    def layered(self) -> bool:
        """Whether every layer has tensors of its own, instead of one stack of all layers."""
        return any(re.search(r"decoder\.layers\.\d+\.", key) for key in self.tensors)

    def has(self, name: str) -> bool:
        """Whether some layer has a tensor of this name, given relative to the layer."""
        return any(key.endswith(name) and "decoder.layers." in key for key in self.tensors)

    def files(self) -> list[Path]:
        """Return the files that hold the weights and their index."""
        return sorted([self.folder / ".metadata", self.folder / "metadata.json", *self.folder.glob("*.distcp")])


def is_store(folder: Path) -> bool:
    """Whether the folder looks like a distributed checkpoint of any kind."""
    return (folder / "metadata.json").is_file() or (folder / ".metadata").is_file()


def open_store(folder: Path, sizes: Mapping[str, int] | None = None) -> TensorStore:
    """Read the index of a ``torch_dist`` folder, without torch.

    ``sizes`` are those of the data files in bytes by name, when they are not unpacked yet.
    Raises `CheckpointError` for another backend, an unreadable index, data files that are missing or too short, and
    weights that are not those of a GPT model.
    """
    _check_backend(folder / "metadata.json")
    if not (folder / ".metadata").is_file():
        raise CheckpointError(f"{folder / '.metadata'}: missing (expected the index of a torch_dist checkpoint)")
    index = read_index(folder / ".metadata")
    try:
        tensors = dict(_tensors(index))
        ends = _file_ends(index)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{folder / '.metadata'}: not an index of torch.distributed.checkpoint") from error
    _check_files(folder, ends, sizes)
    if not any(key.endswith(EMBEDDING) for key in tensors):
        raise CheckpointError(f"{folder}: no tensor named '{EMBEDDING}' (expected a megatron-core GPT model)")
    return TensorStore(folder, tensors)


def _check_backend(file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        backend, version = content["sharded_backend"], content.get("sharded_backend_version", 1)
    except OSError:
        raise CheckpointError(f"{file}: missing (expected the description of a torch_dist checkpoint)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: no 'sharded_backend' in it (expected torch_dist)") from error
    if backend != "torch_dist":
        raise CheckpointError(f"{file}: sharded_backend is '{backend}' (expected torch_dist)")
    if version != 1:
        raise CheckpointError(f"{file}: sharded_backend_version is {version!r} (expected 1)")


def _tensors(index: Record) -> Any:
    for key, entry in index["state_dict_metadata"].items():
        if isinstance(entry, Record) and isinstance(entry.state, dict) and "size" in entry.state:
            yield key, Stored(tuple(entry["size"]), _dtype(entry["properties"]))


def _dtype(properties: Record) -> str:
    """Return the type's name; torch writes the properties as a tuple that starts with it, older versions a dict."""
    state = properties.state
    return str(state["dtype"] if isinstance(state, dict) else state[0])


def _file_ends(index: Record) -> dict[str, int]:
    """Return for every data file the length in bytes that it must have at least."""
    ends: dict[str, int] = {}
    for info in index["storage_data"].values():
        end = info["offset"] + info["length"]
        ends[info["relative_path"]] = max(ends.get(info["relative_path"], 0), end)
    return ends


def _check_files(folder: Path, ends: Mapping[str, int], sizes: Mapping[str, int] | None) -> None:
    if sizes is None:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    for name, end in sorted(ends.items()):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / '.metadata'}: names a data file outside of its folder: {name}")
        if name not in sizes:
            raise CheckpointError(f"{folder / name}: missing (expected a data file of at least {end} bytes)")
        if sizes[name] < end:
            raise CheckpointError(f"{folder / name}: {sizes[name]} bytes (expected at least {end}: it was cut short)")


def load_into(store: TensorStore, model: nn.Module) -> None:
    """Fill this rank's part of a megatron-core model, resharding as its parallel layout asks.

    Collective: every rank of the model calls it. Weights are converted to the parameters' own type. Raises
    `CheckpointError` naming what is missing or has another shape; nothing is loaded in part.
    """
    metadata = {"non_homogeneous_layers": True} if store.layered else None
    wanted = model.sharded_state_dict(prefix=store.prefix, metadata=metadata)  # type: ignore[operator]
    wanted = {key: value for key, value in wanted.items() if not key.endswith("_extra_state")}
    _check_wanted(store, wanted)
    loaded = _load(store, wanted)
    names = {key.removeprefix(store.prefix): value for key, value in loaded.items()}
    left = model.load_state_dict(names, strict=False)
    missing = [key for key in left.missing_keys if not key.endswith("_extra_state")]
    if missing or left.unexpected_keys:
        raise CheckpointError(f"{store.folder}: no weights for {', '.join(missing + left.unexpected_keys)}")


def spellings(name: str) -> Iterator[str]:
    """Yield a name as megatron-core's own layers have it, and as those do that TransformerEngine has fused.

    Which modules are fused depends on the layer: the norm before experts is not.
    """
    yield name
    for plain, fused in FUSED.items():
        if plain in name:
            yield name.replace(plain, fused)
        if fused in name:
            yield name.replace(fused, plain)


def _check_wanted(store: TensorStore, wanted: Mapping[str, Any]) -> None:
    """Compare what the model asks for with what is stored, by name and by shape; asks by the name that is stored."""
    for tensor in sharded_tensors(wanted):
        tensor.key = next((name for name in spellings(tensor.key) if name in store.tensors), tensor.key)
        stored = store.tensors.get(tensor.key)
        if stored is None:
            raise CheckpointError(f"{store.folder}: tensor '{tensor.key}' is missing (the model needs it)")
        shape = tuple(tensor.global_shape)
        if stored.shape != shape and not tensor.allow_shape_mismatch:
            raise CheckpointError(
                f"{store.folder}: tensor '{tensor.key}' has shape {list(stored.shape)} (the model needs {list(shape)})"
            )


def sharded_tensors(wanted: Mapping[str, Any]) -> list[Any]:
    """Return every ``ShardedTensor`` in megatron-core's sharded state dict, with the factories' parts."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    leaves = []
    for value in nested_values(wanted):
        leaves += list(nested_values(value.build())) if isinstance(value, ShardedTensorFactory) else [value]
    return [leaf for leaf in leaves if isinstance(leaf, ShardedTensor)]


def _load(store: TensorStore, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Read the tensors; ``common.pt`` (arguments, pickled) is not opened."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy
    from torch.distributed.checkpoint.api import CheckpointException

    class NoCommon(TorchCommonLoadStrategy):  # type: ignore[misc]
        def load_common(self, checkpoint_dir: str | Path) -> dict[str, Any]:
            return {}

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # megatron-core has yet to follow torch
            return dict(
                dist_checkpointing.load(
                    wanted, str(store.folder), common_strategy=NoCommon(), validate_access_integrity=False
                )
            )
    # The first is a BaseException.
    except (CheckpointException, CheckpointingException, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{store.folder}: the weights cannot be read: {str(error).splitlines()[0]}") from error
