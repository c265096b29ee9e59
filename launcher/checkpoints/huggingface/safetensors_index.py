"""List the tensors of a folder of safetensors files from their headers, without torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.checkpoints.bounded import LONGEST_NAME, MB, holds, parse_json, read_json, shown, too_long
from launcher.checkpoints.fields import LARGEST, MOST_DIMENSIONS
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
LFS = b"version https://git-lfs"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
"""How many bits a number of each of the format's types takes."""

LOADED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Torch's names of the types that the weights of a model can be in."""


@dataclass(frozen=True)
class Entry:
    """A stored tensor: its file, shape, the format's name of its type (``F32``, ``BF16``), and its first byte."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int = 0

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


def read_index(folder: Path, bounds: Bounds | None = None) -> dict[str, Entry]:
    """Return every tensor of a Hugging Face folder by name.

    Raises `CheckpointError` for a part that is missing, cut short or damaged, and for weights that are not safetensors.
    """
    if (folder / INDEX).is_file():
        return _sharded(folder, bounds or Bounds())
    if (folder / SINGLE).is_file():
        return read_file(folder / SINGLE, bounds or Bounds())
    pickled = sorted(folder.glob("*.bin"))
    found = f"found {pickled[0].name}, a pickle, which is not loaded" if pickled else "found none"
    raise CheckpointError(f"{folder / SINGLE}: missing (expected safetensors weights; {found})")


def read_tensor(entry: Entry, name: str, types: Mapping[str, str] = LOADED) -> Tensor:
    """Load one whole tensor onto the CPU, by the header that was checked, if it is of one of the ``types``.

    Raises `CheckpointError` naming the file.
    """
    import torch

    if entry.dtype not in types:
        raise CheckpointError(f"{entry.file}: {shown(name)} is of type {entry.dtype} (expected {', '.join(types)})")
    made = torch.empty(entry.shape, dtype=getattr(torch, types[entry.dtype]))
    content: Any = made.flatten().view(torch.uint8).numpy()  # the same memory
    length = made.numel() * made.element_size()
    try:
        with entry.file.open("rb") as stream:
            stream.seek(entry.start)
            read = stream.readinto(content) if length else 0
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror or error}") from error
    if read != length:
        raise CheckpointError(f"{entry.file}: tensor {shown(name)} was cut short")
    return made


def _sharded(folder: Path, bounds: Bounds) -> dict[str, Entry]:
    content = read_json(folder / INDEX, bounds)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(part, str) for part in names.values()):
        raise CheckpointError(f"{folder / INDEX}: no 'weight_map' in it (expected the index of safetensors)")
    stored: dict[str, Entry] = {}
    for part in sorted(set(names.values())):
        if Path(part).name != part or len(part) > LONGEST_NAME:
            raise CheckpointError(
                f"{folder / INDEX}: names a part {shown(part)} (expected the name of a file in its folder)"
            )
        add(stored, read_file(folder / part, bounds))
    for name, part in names.items():
        if name not in stored or stored[name].file.name != part:
            raise CheckpointError(f"{folder / part}: tensor {shown(name)} is missing (the index promises it)")
    return stored


def add(stored: dict[str, Entry], part: Mapping[str, Entry]) -> None:
    """Add what a part holds to what others hold; `CheckpointError` for a tensor that two of them have."""
    for name, entry in part.items():
        if name in stored:
            other = stored[name].file.name
            raise CheckpointError(f"{entry.file}: tensor {shown(name)} is in {other} too (expected it in one part)")
        stored[name] = entry


def unread(folder: Path, bounds: Bounds | None = None) -> list[str]:
    """Return the names of the files of weights in a folder that are not its model's: the index decides."""
    kept = {entry.file.name for entry in read_index(folder, bounds).values()}
    found = (file.name for pattern in WEIGHTS for file in folder.glob(pattern))
    return sorted(name for name in set(found) - kept)


def read_file(file: Path, bounds: Bounds) -> dict[str, Entry]:
    """Return the tensors of one file by its header, 8 bytes of length, then JSON; its claims must fit the file."""
    if not holds(file.is_file):
        raise CheckpointError(f"{file}: missing (expected a part of the weights)")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if start == LFS[:8]:
            raise CheckpointError(f"{file}: a pointer of Git LFS, not the weights; fetch them with git lfs pull")
        if length > size - 8:
            raise CheckpointError(f"{file}: no safetensors header fits into its {size} bytes (expected safetensors)")
        if length > bounds.metadata_mb * MB:
            raise CheckpointError(f"{file}: {too_long(length, bounds)}")
        header = parse_json(stream.read(length), file)
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: no safetensors header (expected safetensors)")
    made = dict(_entries(header, file, 8 + length, size))
    if not made:
        raise CheckpointError(f"{file}: no tensors in it (expected weights)")
    return made


def _entries(header: Mapping[str, Json], file: Path, begin: int, size: int) -> Iterator[tuple[str, Entry]]:
    """Yield the tensors of a header in the order of their bytes, which they must fill without gap or overlap."""
    tensors = [(*_offsets(name, entry, file), name, entry) for name, entry in header.items() if name != "__metadata__"]
    reached = 0
    for start, end, name, entry in sorted(tensors, key=lambda tensor: tensor[:2]):
        made = _entry(name, entry, file, begin + start)
        if start != reached or math.prod(made.shape) * BITS[made.dtype] != (end - start) * 8:
            what = f"{made.dtype} with shape {list(made.shape)}"
            raise CheckpointError(f"{file}: tensor {shown(name)} of {what} does not fit its bytes {start} to {end}")
        reached = end
        yield name, made
    if begin + reached != size:
        raise CheckpointError(f"{file}: {size} bytes (its header promises {begin + reached})")


def _offsets(name: str, entry: Json, file: Path) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_place, offsets)):
        raise CheckpointError(f"{file}: tensor {shown(name)} has no data_offsets (expected safetensors)")
    return offsets[0], offsets[1]


def _is_place(value: Json) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _entry(name: str, entry: Mapping[str, Json], file: Path, start: int) -> Entry:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    axes = shape if isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS else [None]
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < LARGEST for size in axes):
        raise CheckpointError(f"{file}: tensor {shown(name)} has shape {shown(shape)} (expected safetensors)")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{file}: tensor {shown(name)} is of type {shown(dtype)} (expected safetensors)")
    return Entry(file, tuple(shape), dtype, start)
