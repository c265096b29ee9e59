"""The bytes of a safetensors file, tensor by tensor, and its SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from launcher.checkpoints.export.plan import BYTES, Shape

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()
