"""Parse the header of a GGUF file; every count and size is checked against the remaining bytes.

The format is described in ggml's ``docs/gguf.md``: magic, version, counts, key-value pairs, descriptions of tensors,
and their data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.checkpoints.bounded import MB, shown
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The format's numbers of its types, with those of `struct`."""

STRING, ARRAY = 8, 9
MOST_ELEMENTS = 4_000_000
"""Elements of all arrays together; a vocabulary of 256k tokens with scores, types and merges has one million."""

MOST_DIMENSIONS = 4


class _Damaged(Exception):
    """Bytes that are not those of a GGUF file."""


@dataclass(frozen=True)
class GGUFTensor:
    """A stored tensor. ``shape`` is in the file's order: the axis whose numbers are next to each other comes first.

    ``tensor_type`` is the ``GGMLQuantizationType``, ``start`` the first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: Any
    start: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    def read(self, path: Path) -> Any:
        """Return the tensor's bytes as an array of ``uint8``, one row for each row of the tensor."""
        import numpy

        rows = self.n_elements // self.shape[0]
        found = numpy.fromfile(path, dtype=numpy.uint8, count=self.n_bytes, offset=self.start)
        if found.size != self.n_bytes:
            raise CheckpointError(f"{path}: tensor {shown(self.name)} was cut short")
        return found.reshape(rows, self.n_bytes // rows)

    def parts(self) -> Iterator[GGUFTensor]:
        """Yield what the last axis of the shape counts, such as experts, each as a tensor."""
        *shape, count = self.shape
        for part in range(count):
            length = self.n_bytes // count
            yield replace(self, shape=tuple(shape), start=self.start + part * length, n_bytes=length)

    def is_neutral(self, path: Path) -> bool:
        """Whether every number is 1, so that a factor changes nothing."""
        found = self.read(path).tobytes()
        return bool(self.tensor_type.name == "F32" and found == struct.pack("<f", 1.0) * (len(found) // 4))


@dataclass(frozen=True)
class GGUFHeader:
    """What a file says of the model, by key, and its tensors by name."""

    fields: Mapping[str, Json]
    tensors: Mapping[str, GGUFTensor]


def read_header(path: Path, bounds: Bounds) -> GGUFHeader:
    """Return what is in a GGUF file. Raises `CheckpointError` for one that claims what it does not hold."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = _Head(stream.read(min(size, bounds.metadata_mb * MB)), size, bounds)
        fields, tensors = _parsed(head)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (_Damaged, UnicodeDecodeError, struct.error) as error:
        raise CheckpointError(f"{path}: a damaged or incomplete GGUF file: {error}") from error
    return GGUFHeader(fields, tensors)


class _Head:
    """The bytes of a header and how far they are read."""

    def __init__(self, content: bytes, size: int, bounds: Bounds) -> None:
        self.content = content
        self.size = size
        self.bounds = bounds
        self.position = 0
        self.elements = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > self.size:
            raise _Damaged(f"{count} bytes are promised at byte {self.position}; the file has {self.size}")
        if end > len(self.content):
            raise _Damaged(
                f"its header takes more than {self.bounds.metadata_mb} MB (model.bounds.metadata_mb bounds it)"
            )
        found = self.content[self.position : end]
        self.position = end
        return found

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Json:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise _Damaged(f"a value is of type {kind} (expected 0 to 12)")
        return self.number(SCALARS[kind])

    def array(self) -> list[Json]:
        kind, count = self.number("I"), self.number("Q")
        self.elements += count
        if self.elements > MOST_ELEMENTS:
            raise _Damaged(f"its arrays have {self.elements} elements (expected at most {MOST_ELEMENTS})")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise _Damaged(f"an array is of type {kind} (expected numbers or strings)")
        layout = f"<{count}{SCALARS[kind]}"
        return list(struct.unpack(layout, self.take(struct.calcsize(layout))))


def _parsed(head: _Head) -> tuple[dict[str, Json], dict[str, GGUFTensor]]:
    if head.take(4) != MAGIC:
        raise _Damaged("it does not start with 'GGUF'")
    version = head.number("I")
    if version not in VERSIONS:
        raise _Damaged(f"version {version} (expected {' or '.join(map(str, VERSIONS))}, little-endian)")
    tensor_count, field_count = head.number("Q"), head.number("Q")
    fields: dict[str, Json] = {}
    for _ in range(field_count):
        key = head.text()
        if key in fields:
            raise _Damaged(f"{shown(key)} is there twice")
        fields[key] = head.value(head.number("I"))
    described = [_description(head) for _ in _counted(tensor_count, head)]
    start = _aligned(head.position, fields.get("general.alignment", 32))
    tensors = {name: _tensor(name, shape, kind, start + offset) for name, shape, kind, offset in described}
    if len(tensors) != len(described):
        raise _Damaged("two tensors have the same name")
    _check_places(tensors, head.size)
    return fields, tensors


def _counted(count: int, head: _Head) -> range:
    """Return a range after comparing it with what 24 bytes for each, the least there can be, leave room for."""
    if count > (head.size - head.position) // 24:
        raise _Damaged(f"{count} tensors are promised; the file has {head.size} bytes")
    return range(count)


def _description(head: _Head) -> tuple[str, tuple[int, ...], int, int]:
    """Read a tensor's name, shape, type and place among the data."""
    name, dimensions = head.text(), head.number("I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise _Damaged(f"tensor {shown(name)} has {dimensions} dimensions (expected 1 to {MOST_DIMENSIONS})")
    shape = struct.unpack(f"<{dimensions}Q", head.take(8 * dimensions))
    return name, shape, head.number("I"), head.number("Q")


def _aligned(position: int, alignment: Json) -> int:
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 2**20:
        raise _Damaged(f"general.alignment is {shown(alignment)} (expected a power of two)")
    return -(-position // alignment) * alignment


def _tensor(name: str, shape: tuple[int, ...], kind: int, start: int) -> GGUFTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        tensor_type = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[tensor_type]
    except (ValueError, KeyError):
        raise _Damaged(f"tensor {shown(name)} is of type {kind}, which is not known") from None
    if not all(shape) or shape[0] % block:
        raise _Damaged(f"tensor {shown(name)} of {tensor_type.name} has shape {list(shape)}")
    return GGUFTensor(name, shape, tensor_type, start, math.prod(shape) // block * block_bytes)


def _check_places(tensors: Mapping[str, GGUFTensor], size: int) -> None:
    """Refuse tensors that lie outside of the file, or over each other."""
    reached = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start < reached:
            raise _Damaged(f"tensor {shown(tensor.name)} lies over another")
        reached = tensor.start + tensor.n_bytes
        if reached > size:
            raise _Damaged(f"tensor {shown(tensor.name)} ends at byte {reached}; the file has {size}")
