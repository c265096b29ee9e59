"""The checked index of a ``torch.distributed.checkpoint``: the tensors, and where their bytes are.

The file is a pickle of torch's own classes. torch would run what it names, so torch is never given it: what is read
here is all that loading knows of the checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoints.bounded import LONGEST_NAME, read_bytes, shown
from launcher.checkpoints.fields import MOST_DIMENSIONS
from launcher.checkpoints.torch_dist.archive import Span
from launcher.checkpoints.torch_dist.inert_pickle import DTYPES, Inert, Name, Record, loads
from launcher.core.errors import CheckpointError
from launcher.settings.model import Bounds

_METADATA = "torch.distributed.checkpoint.metadata"
INDEX: Name = (_METADATA, "Metadata")
TENSOR: Name = (_METADATA, "TensorStorageMetadata")
OBJECT: Name = (_METADATA, "BytesStorageMetadata")
CHUNK: Name = (_METADATA, "ChunkStorageMetadata")
PROPERTIES: Name = (_METADATA, "TensorProperties")
PLACE: Name = (_METADATA, "MetadataIndex")
STORED: Name = ("torch.distributed.checkpoint.filesystem", "_StorageInfo")

OLD_PROPERTIES: Name = ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties")
"""Where older versions of torch kept it."""

ALLOWED = frozenset(
    {
        INDEX, TENSOR, OBJECT, CHUNK, PROPERTIES, PLACE, STORED, OLD_PROPERTIES,
        (_METADATA, "StorageMeta"),
        (_METADATA, "_MEM_FORMAT_ENCODING"),
        ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
        ("torch.distributed.checkpoint.planner", "SavePlan"),
        ("torch.distributed.checkpoint.planner", "TensorWriteData"),
        ("torch.distributed.checkpoint.planner", "WriteItem"),
        ("torch.distributed.checkpoint.planner", "WriteItemType"),
        ("torch.distributed.checkpoint.planner", "BytesIOWriteData"),
        ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"),
        ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("torch", "device"),
        *(("torch", name) for name in DTYPES),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
    }
)  # fmt: skip
"""All that an index names, as pairs of module and name."""

ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip

OPTIMIZER = re.compile(r"(chained_\d+\.)?optimizer\.")
"""How the names of an optimizer's tensors begin; they are cut by other rules, and are no tensors of a model."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor: where it is in the whole, and the bytes of which file hold it."""

    offsets: Shape
    sizes: Shape
    file: str
    span: Span


@dataclass(frozen=True)
class Stored:
    """A stored tensor: its whole shape over all ranks (layers stacked on axis 0), torch's name of its type, parts."""

    shape: Shape
    dtype: str
    chunks: tuple[Chunk, ...] = ()


@dataclass(frozen=True)
class Index:
    """The model's ``tensors`` by name, and how many bytes each data file must have at least.

    Tensors of an optimizer are not among them: no model is filled from those.
    """

    tensors: Mapping[str, Stored]
    ends: Mapping[str, int]


class _Wrong(Exception):
    """An entry of the index that is not what torch writes."""


def read_index(file: Path, bounds: Bounds) -> Index:
    """Return the index of a distributed checkpoint. Objects that it lists are left out: they are never opened.

    Raises `CheckpointError` if it is damaged, names a class that is not allowed, or contradicts itself.
    """
    try:
        found = loads(read_bytes(file, bounds), ALLOWED)
        state = _state(found, (INDEX,), "the index")
        places = dict(_places(_mapping(state, "storage_data")))
        tensors = dict(_tensors(_mapping(state, "state_dict_metadata"), places))
    except (Inert, _Wrong) as error:
        raise CheckpointError(f"{file}: not an index of torch.distributed.checkpoint: {error}") from error
    return Index(tensors, _ends(places.values()))


def _state(found: Any, names: tuple[Name, ...], what: str) -> dict[str, Any]:
    """Return the fields of a record, after checking its class."""
    if not isinstance(found, Record) or found.name not in names or not isinstance(found.state, dict):
        name = ".".join(found.name or ()) if isinstance(found, Record) else type(found).__name__
        raise _Wrong(f"{what} is a {shown(name)} (expected {names[0][1]})")
    return found.state


def _mapping(state: Mapping[str, Any], key: str) -> dict[Any, Any]:
    found = state.get(key)
    if not isinstance(found, dict):
        raise _Wrong(f"it has no {key}")
    return found


def _shape(value: Any, what: str) -> Shape:
    if not isinstance(value, tuple) or len(value) > MOST_DIMENSIONS:
        raise _Wrong(f"{what} is not a shape")
    if not all(type(size) is int and 0 <= size < 2**48 for size in value):
        raise _Wrong(f"{what} is {shown(value)}")
    return value


def _size(state: Mapping[str, Any], key: str, what: str) -> int:
    value = state.get(key)
    if type(value) is not int or value < 0:
        raise _Wrong(f"the {key} of {what} is {shown(value)}")
    return value


Place = tuple[str, Shape | None]


def _places(stored: Mapping[Any, Any]) -> Iterator[tuple[Place, tuple[str, Span]]]:
    """Yield which bytes of which file hold a part of a tensor, or an object (which has no offset)."""
    for key, value in stored.items():
        place = _state(key, (PLACE,), "a key of storage_data")
        name, offset = place.get("fqn"), place.get("offset")
        if not isinstance(name, str):
            raise _Wrong(f"a key of storage_data is called {shown(name)}")
        what = f"the place of {shown(name)}"
        info = _state(value, (STORED,), what)
        if info.get("transform_descriptors"):
            raise _Wrong(f"{what} has transform_descriptors (expected none)")
        file = info.get("relative_path")
        if not isinstance(file, str) or Path(file).name != file or len(file) > LONGEST_NAME:
            raise _Wrong(f"{what} names a data file {shown(file)} (expected a file in its folder)")
        span = Span(_size(info, "offset", what), _size(info, "length", what))
        yield (name, None if offset is None else _shape(offset, what)), (file, span)


def _tensors(entries: Mapping[Any, Any], places: Mapping[Place, tuple[str, Span]]) -> Iterator[tuple[str, Stored]]:
    for name, entry in entries.items():
        if not isinstance(name, str):
            raise _Wrong(f"a tensor is called {shown(name)}")
        what = f"the entry of {shown(name)}"
        if isinstance(entry, Record) and entry.name == OBJECT:
            continue
        state = _state(entry, (TENSOR, OBJECT), what)
        dtype = _dtype(state.get("properties"), what)
        shape, chunks = _shape(state.get("size"), what), state.get("chunks")
        if not isinstance(chunks, list):
            raise _Wrong(f"{what} has no chunks")
        made = tuple(_chunk(name, chunk, dtype, shape, places) for chunk in chunks)
        if not OPTIMIZER.match(name):
            _check_tiling(shape, made, shown(name))
            yield name, Stored(shape, dtype, made)


def _dtype(properties: Any, what: str) -> str:
    """Return the type's name; torch writes the properties as a tuple that starts with it, older versions a dict."""
    if not isinstance(properties, Record) or properties.name not in (PROPERTIES, OLD_PROPERTIES):
        raise _Wrong(f"{what} has no properties")
    state = properties.state
    first = state[0] if isinstance(state, tuple) and state else None
    dtype = state.get("dtype") if isinstance(state, dict) else first
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _Wrong(f"{what} has no type of numbers")
    return dtype


def _chunk(name: str, chunk: Any, dtype: str, shape: Shape, places: Mapping[Place, tuple[str, Span]]) -> Chunk:
    """Return a part of a tensor, after comparing its place with the whole and its size with the bytes it has."""
    what = f"a part of {shown(name)}"
    state = _state(chunk, (CHUNK,), what)
    offsets, sizes = _shape(state.get("offsets"), what), _shape(state.get("sizes"), what)
    if not len(offsets) == len(sizes) == len(shape):
        raise _Wrong(f"{what} has {len(sizes)} dimensions, the tensor {len(shape)}")
    if any(start + size > whole for start, size, whole in zip(offsets, sizes, shape, strict=True)):
        raise _Wrong(f"{what} lies outside of its shape {list(shape)}")
    if (name, offsets) not in places:
        raise _Wrong(f"{what} has no place in a file")
    file, span = places[name, offsets]
    if math.prod(sizes) * ITEM_SIZES[dtype] > span.length:
        raise _Wrong(f"{what} of {dtype} with shape {list(sizes)} has {span.length} bytes")
    return Chunk(offsets, sizes, file, span)


def _check_tiling(shape: Shape, chunks: tuple[Chunk, ...], what: str) -> None:
    """Refuse parts that leave numbers out or overlap: a grid, as every parallel layout makes one, does neither."""
    if not math.prod(shape):
        return
    cells = 1
    for axis, size in enumerate(shape):
        cuts = sorted({(chunk.offsets[axis], chunk.offsets[axis] + chunk.sizes[axis]) for chunk in chunks})
        ends = [0, *(end for _, end in cuts)]
        if [start for start, _ in cuts] != ends[:-1] or ends[-1] != size:
            raise _Wrong(f"the parts of {what} do not cover its shape {list(shape)}")
        cells *= len(cuts)
    if len(chunks) != cells or len({chunk.offsets for chunk in chunks}) != cells:
        raise _Wrong(f"the parts of {what} do not cover its shape {list(shape)}")


def _ends(places: Any) -> dict[str, int]:
    """Return for every data file the length in bytes that it must have at least."""
    ends: dict[str, int] = {}
    for file, span in places:
        ends[file] = max(ends.get(file, 0), span.start + span.length)
    return ends
