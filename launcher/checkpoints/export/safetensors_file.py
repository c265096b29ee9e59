"""Write a safetensors file tensor by tensor, with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from launcher.checkpoints.export.plan import BYTES, Shape
from launcher.core.files import storing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
PARTIAL = ".partial"
"""The ending of a file until it is whole and on the disk."""

BLOCK = 16 * 2**20


def header(tensors: Sequence[tuple[str, Shape]], dtype: str) -> bytes:
    """Return the first bytes of a file, which say where each tensor's numbers are."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors:
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": FORMAT[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def content(first: bytes, tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of a file, those of one tensor after the other."""
    import torch

    yield memoryview(first)
    for tensor in tensors:
        if tensor.numel():
            numbers: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
            yield memoryview(numbers)


def write(path: Path, pieces: Iterable[memoryview | bytes]) -> str:
    """Write a file under another name, rename it once it is on the disk, and return its SHA-256 in hexadecimal.

    Raises `StorageError`.
    """
    digest = hashlib.sha256()
    partial = path.with_name(path.name + PARTIAL)
    with storing(path):
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
