"""The tensors of a ``torch_dist`` checkpoint, and loading this rank's part of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.checkpoints import parts
from launcher.checkpoints.base import Architecture
from launcher.checkpoints.bounded import read_json, shown
from launcher.checkpoints.torch_dist.archive import read_tensor
from launcher.checkpoints.torch_dist.index import Chunk, Stored, read_index
from launcher.core.errors import CheckpointError
from launcher.core.stage import Loading
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
DTYPES: Mapping[str, Literal["fp32", "bf16", "fp16"]] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

STACKED = "mlp.experts.experts."
"""The name that all experts of a layer share."""

FUSED = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}
"""Norms by the names that they have inside of the layers that TransformerEngine fuses them into."""


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
    def numbers(self) -> int:
        """How many numbers the model's tensors hold."""
        return sum(math.prod(stored.shape) for stored in self.tensors.values())

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


def open_store(folder: Path, bounds: Bounds | None = None, sizes: Mapping[str, int] | None = None) -> TensorStore:
    """Read the index of a ``torch_dist`` folder, without torch.

    ``sizes`` are those of the data files in bytes by name, when they are not unpacked yet.
    Raises `CheckpointError` for another backend or an unreadable index. It also refuses data files that are missing or
    too short, and weights that are not those of a GPT model.
    """
    tensors = open_tensors(folder, bounds or Bounds(), sizes)
    if not any(key.endswith(EMBEDDING) for key in tensors):
        raise CheckpointError(f"{folder}: no tensor named '{EMBEDDING}' (expected a megatron-core GPT model)")
    return TensorStore(folder, tensors)


def open_tensors(folder: Path, bounds: Bounds, sizes: Mapping[str, int] | None = None) -> Mapping[str, Stored]:
    """Read the index of a ``torch_dist`` folder of any model. Raises `CheckpointError` as `open_store` does."""
    _check_backend(folder / "metadata.json", bounds)
    if not (folder / ".metadata").is_file():
        raise CheckpointError(f"{folder / '.metadata'}: missing (expected the index of a torch_dist checkpoint)")
    index = read_index(folder / ".metadata", bounds)
    _check_files(folder, index.ends, sizes)
    return index.tensors


def _check_backend(file: Path, bounds: Bounds) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file}: missing (expected the description of a torch_dist checkpoint)")
    content = read_json(file, bounds)
    if not isinstance(content, dict) or "sharded_backend" not in content:
        raise CheckpointError(f"{file}: no 'sharded_backend' in it (expected torch_dist)")
    backend, version = content["sharded_backend"], content.get("sharded_backend_version", 1)
    if backend != "torch_dist":
        raise CheckpointError(f"{file}: sharded_backend is {shown(backend)} (expected torch_dist)")
    if version != 1:
        raise CheckpointError(f"{file}: sharded_backend_version is {shown(version)} (expected 1)")


def _check_files(folder: Path, ends: Mapping[str, int], sizes: Mapping[str, int] | None) -> None:
    if sizes is None:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    for name, end in sorted(ends.items()):
        if name not in sizes:
            raise CheckpointError(f"{folder / name}: missing (expected a data file of at least {end} bytes)")
        if sizes[name] < end:
            raise CheckpointError(f"{folder / name}: {sizes[name]} bytes (expected at least {end}: it was cut short)")


def load_into(store: TensorStore, model: nn.Module) -> None:
    """Fill this rank's part of a megatron-core model, resharding as its parallel layout asks.

    Weights are converted to the parameters' own type. Raises `CheckpointError` naming what is missing or has another
    shape, before anything is loaded.
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
        if stored.shape != shape and not _is_padded(stored, tensor):
            raise CheckpointError(
                f"{store.folder}: tensor '{tensor.key}' has shape {list(stored.shape)} (the model needs {list(shape)})"
            )


def _is_padded(stored: Stored, tensor: Any) -> bool:
    """Whether megatron-core lets the first axis differ, as for an embedding whose rows each layout of ranks pads."""
    return bool(tensor.allow_shape_mismatch and stored.shape[1:] == tuple(tensor.global_shape)[1:])


def sharded_tensors(wanted: Mapping[str, Any]) -> list[Any]:
    """Return every ``ShardedTensor`` in megatron-core's sharded state dict, with the factories' parts."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    leaves = []
    for value in nested_values(wanted):
        leaves += list(nested_values(value.build())) if isinstance(value, ShardedTensorFactory) else [value]
    return [leaf for leaf in leaves if isinstance(leaf, ShardedTensor)]


def _load(store: TensorStore, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Read every tensor that is wanted, and let megatron-core join those that it stores in parts.

    ``megatron.core.dist_checkpointing.load`` is not called: it has torch unpickle the index, ``common.pt`` and objects.
    """
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, merge
    from megatron.core.dist_checkpointing.mapping import apply_factory_merges
    from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess

    pieces, kept, factories = load_preprocess(dict(wanted))
    loading = Loading(_places(store, wanted))
    loaded = dict_list_map_inplace(lambda part: _filled(store, part, loading), pieces)
    return dict(apply_factory_merges(merge(loaded, kept), factories))


def _places(store: TensorStore, wanted: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
    """Yield the file and the size of every stored part of what is wanted, once for each that is read."""
    for part in sharded_tensors(wanted):
        yield from ((store.folder / chunk.file, chunk.span.length) for chunk in store.tensors[part.key].chunks)


def _filled(store: TensorStore, part: Any, loading: Loading) -> Any:
    """Return the data of one ``ShardedTensor`` after reading it from the parts that are stored."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    if not isinstance(part, ShardedTensor) or part.flattened_range is not None:
        raise CheckpointError(f"{store.folder}: the model asks for {shown(part)} (expected whole tensors)")
    target = part.data.detach()
    whole = target[(None,) * part.prepend_axis_num]
    stored = store.tensors[part.key]
    if stored.shape != tuple(part.global_shape):
        target.zero_()  # the rows that pad
    for chunk in stored.chunks:
        _copy_overlap(store.folder, stored, chunk, whole, tuple(part.global_offset))
        loading.read(store.folder / chunk.file, chunk.span.length)
    return target


def parameter(store: TensorStore, a: Architecture, module: str, kind: str) -> Tensor:
    """Return one whole parameter of the model; of a stack of layers or experts, only its own part is read.

    Raises `CheckpointError` for one that is missing or has another shape.
    """
    name, index = place(module, kind, store.layered)
    name = store.prefix + name
    key = next((other for other in spellings(name) if other in store.tensors), None)
    if key is None:
        raise CheckpointError(f"{store.folder}: tensor '{name}' is missing (the model needs it)")
    stored, wanted = store.tensors[key], parts.shape(a, module, kind)
    if stored.shape[len(index) :] != wanted or len(stored.shape) < len(index):
        raise CheckpointError(
            f"{store.folder}: tensor '{key}' has shape {list(stored.shape)} (the model needs {list(wanted)} of it)"
        )
    return read_whole(store, key, index)


def read_whole(store: TensorStore, key: str, index: tuple[int, ...] = ()) -> Tensor:
    """Return a stored tensor, or the part of it that an ``index`` of its first axes names. Raises `CheckpointError`."""
    import torch

    stored = store.tensors[key]
    whole = torch.empty(stored.shape[len(index) :], dtype=getattr(torch, stored.dtype))
    for chunk in stored.chunks:
        _copy_chunk(store.folder, stored, chunk, whole, index)
    return whole


def place(module: str, kind: str, layered: bool = False) -> tuple[str, tuple[int, ...]]:
    """Return the stored name of a parameter and its index: that of its layer and expert in the stacks of them.

    Where the checkpoint is ``layered``, every layer has tensors of its own.
    """
    index: list[int] = []
    if not layered and module.startswith(parts.LAYER):
        layer, module = module.removeprefix(parts.LAYER).split(".", 1)
        index.append(int(layer))
        module = parts.LAYER + module
    before, expert, after = module.partition(parts.EXPERT)
    if expert:
        number, module = after.split(".", 1)
        index.append(int(number))
        module = f"{before}{STACKED}{module}"
    return f"{module}.{kind}", tuple(index)


def _copy_chunk(folder: Path, stored: Stored, chunk: Chunk, whole: Tensor, index: tuple[int, ...]) -> None:
    """Copy what a stored part has of the tensor at ``index`` of the stack."""
    depth = len(index)
    inside = tuple(place - start for place, start in zip(index, chunk.offsets, strict=False))
    if not all(0 <= place < size for place, size in zip(inside, chunk.sizes, strict=False)):
        return
    found = read_tensor(folder / chunk.file, chunk.span, stored.dtype, chunk.sizes, inside)
    region = zip(chunk.offsets[depth:], chunk.sizes[depth:], strict=True)
    whole[tuple(slice(start, start + size) for start, size in region)] = found


def _copy_overlap(folder: Path, stored: Stored, chunk: Chunk, target: Tensor, offset: tuple[int, ...]) -> None:
    """Copy what a stored part and this rank's part, which begins at ``offset``, have in common."""
    starts = [max(a, b) for a, b in zip(chunk.offsets, offset, strict=True)]
    stops = [min(a + n, b + m) for a, n, b, m in zip(chunk.offsets, chunk.sizes, offset, target.shape, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return
    found = read_tensor(folder / chunk.file, chunk.span, stored.dtype, chunk.sizes)
    target[_slices(starts, stops, offset)].copy_(found[_slices(starts, stops, chunk.offsets)])


def _slices(starts: list[int], stops: list[int], origin: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start - at, stop - at) for start, stop, at in zip(starts, stops, origin, strict=True))
