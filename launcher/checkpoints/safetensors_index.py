"""What a folder of safetensors files holds, read from their headers without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.core import Json
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")

LONGEST_HEADER = 100 * 2**20
"""The format's own limit on the header, in bytes."""


@dataclass(frozen=True)
class Entry:
    """A stored tensor: its file, shape, and the format's name of its type (``F32``, ``BF16``, ``F16``)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_index(folder: Path) -> dict[str, Entry]:
    """Return every tensor of a Hugging Face folder by name.

    Raises `CheckpointError` for a part that is missing, cut short or damaged, and for weights that are not safetensors.
    """
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    pickled = sorted(folder.glob("*.bin"))
    found = f"found {pickled[0].name}, a pickle, which is not loaded" if pickled else "found none"
    raise CheckpointError(f"{folder / SINGLE}: missing (expected safetensors weights; {found})")


def read_tensor(entry: Entry, name: str) -> Tensor:
    """Load one whole tensor onto the CPU."""
    from safetensors import safe_open

    with safe_open(str(entry.file), framework="pt") as stored:
        tensor: Tensor = stored.get_tensor(name)
    return tensor


def _sharded(folder: Path) -> dict[str, Entry]:
    try:
        names: Mapping[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        parts = sorted(set(names.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX}: no 'weight_map' in it (expected the index of safetensors)") from error
    stored: dict[str, Entry] = {}
    for part in parts:
        if Path(part).name != part:
            raise CheckpointError(f"{folder / INDEX}: names a file outside of its folder: {part}")
        add(stored, _header(folder / part))
    for name, part in names.items():
        if name not in stored or stored[name].file.name != part:
            raise CheckpointError(f"{folder / part}: tensor '{name:.200}' is missing (the index promises it)")
    return stored


def add(stored: dict[str, Entry], part: Mapping[str, Entry]) -> None:
    """Add what a part holds to what others hold; `CheckpointError` for a tensor that two of them have."""
    for name, entry in part.items():
        if name in stored:
            other = stored[name].file.name
            raise CheckpointError(f"{entry.file}: tensor '{name:.200}' is in {other} too (expected it in one part)")
        stored[name] = entry


def unread(folder: Path) -> list[str]:
    """Return the names of the files of weights in a folder that are not its model's: the index decides."""
    kept = {entry.file.name for entry in read_index(folder).values()}
    found = (file.name for pattern in WEIGHTS for file in folder.glob(pattern))
    return sorted(name for name in set(found) - kept)


def _header(file: Path) -> dict[str, Entry]:
    """Read one file's header: 8 bytes of length, then JSON."""
    if not file.is_file():
        raise CheckpointError(f"{file}: missing (expected a part of the weights)")
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
        header = stream.read(length) if length <= LONGEST_HEADER else b""
    try:
        entries: Mapping[str, Json] = json.loads(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        made = {name: Entry(file, tuple(entry["shape"]), entry["dtype"]) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: no safetensors header (expected safetensors)") from error
    if file.stat().st_size != end:
        raise CheckpointError(f"{file}: {file.stat().st_size} bytes (its header promises {end})")
    return made
