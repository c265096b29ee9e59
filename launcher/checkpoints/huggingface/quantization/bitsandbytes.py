"""bitsandbytes: nf4 and fp4 with a scale for a block, which may be quantised too, and int8 with a scale for a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import parse_json, shown
from launcher.checkpoints.fields import LARGEST, as_list, power_of_two
from launcher.checkpoints.huggingface.quantization.weights import BYTES, QuantizedWeight, Settings, Stored
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

STATE = "weight.quant_state.bitsandbytes__"
TYPES = ("nf4", "fp4")
FLOATS = {"F32": "float32"}
INTEGERS = {"I8": "int8"}
STORAGE = {**BYTES, "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types that the pairs of 4-bit numbers may be stored as; each holds as many bytes as it has (FSDP wants floats)."""

RECIPROCAL = 7.874015718698502e-3
"""1/127, as bitsandbytes writes it."""

LONGEST_STATE = 10**4


@dataclass(frozen=True)
class FourBitWeight(QuantizedWeight):
    """Two numbers to a byte, the upper four bits first; each is a place in ``quant_map``, times its block's scale."""

    stored: Stored
    module: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...]
    block: int
    nested_block: int
    offset: float

    def read(self) -> Tensor:
        import torch

        pairs = self.stored.read(f"{self.module}weight", STORAGE).flatten().view(torch.uint8)
        values = self._part("quant_map", FLOATS)
        count, scales = math.prod(self.shape), self._scales()
        made = values[torch.stack([pairs >> 4, pairs & 15], dim=1).flatten()[:count].int()]
        for_all = scales.repeat_interleave(self.block)[:count]
        return made.mul_(for_all).reshape(self.shape)

    def _scales(self) -> Tensor:
        if not self.nested_block:
            return self._part("absmax", FLOATS)
        places = self._part("absmax", BYTES)
        values, scales = self._part("nested_quant_map", FLOATS), self._part("nested_absmax", FLOATS)
        each = scales.repeat_interleave(self.nested_block)[: len(places)]
        return values[places.int()] * each + self.offset

    def _part(self, name: str, types: Mapping[str, str]) -> Tensor:
        return self.stored.read(f"{self.module}weight.{name}", types)


@dataclass(frozen=True)
class Int8Weight(QuantizedWeight):
    """Numbers from -127 to 127, times their row's largest (``SCB``) over 127."""

    stored: Stored
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]

    def read(self) -> Tensor:
        numbers = self.stored.read(f"{self.module}weight", INTEGERS)
        return numbers * self.stored.read(f"{self.module}SCB", FLOATS).reshape(-1, 1) * RECIPROCAL


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of a folder as bitsandbytes stores them."""
    for kind in TYPES:
        for module in stored.modules(f"{STATE}{kind}"):
            yield f"{module}weight", _four_bits(stored, module, kind)
    for module in stored.modules("SCB"):
        yield f"{module}weight", _eight_bits(stored, module)


def _eight_bits(stored: Stored, module: str) -> Int8Weight:
    shape = stored.matrix(f"{module}weight", INTEGERS) if f"{module}weight" in stored.entries else (0, 0)
    stored.get(f"{module}weight", shape, INTEGERS)
    stored.get(f"{module}SCB", (shape[0],), FLOATS)
    names, layout = [f"{module}weight", f"{module}SCB"], stored.entries.get(f"{module}weight_format")
    if layout is not None:
        if layout.n_bytes != 1 or stored.content(f"{module}weight_format") != b"\0":
            raise CheckpointError(f"{layout.file}: {module}weight_format is not 0 (expected numbers row by row)")
        names.append(f"{module}weight_format")
    return Int8Weight(stored, module, shape, tuple(names))


def _four_bits(stored: Stored, module: str, kind: str) -> FourBitWeight:
    """Compare the tensors of a module with its state. Raises `CheckpointError`."""
    name = f"{module}{STATE}{kind}"
    state, file = _state(stored, name), stored.entries[name].file
    shape = tuple(as_list(state, "shape", file))
    if len(shape) != 2 or not all(type(size) is int and 0 < size < LARGEST for size in shape):
        raise CheckpointError(f"{file}: {shown(name)} has shape {shown(list(shape))} (expected rows, columns)")
    block = _size(state, "blocksize", name, file)
    blocks = -(-math.prod(shape) // block)
    pairs = stored.entries.get(f"{module}weight")
    if pairs is None or pairs.dtype not in STORAGE or pairs.n_bytes != -(-math.prod(shape) // 2):
        raise CheckpointError(f"{file}: {module:.200}weight is not {list(shape)} numbers of 4 bits (as {name} says)")
    stored.get(f"{module}weight.quant_map", (16,), FLOATS)
    names = [f"{module}weight", name, *(f"{module}weight.{part}" for part in ("absmax", "quant_map"))]
    if f"{module}weight.nested_absmax" not in stored.entries:
        stored.get(f"{module}weight.absmax", (blocks,), FLOATS)
        return FourBitWeight(stored, module, shape, tuple(names), block, 0, 0.0)
    stored.get(f"{module}weight.absmax", (blocks,), BYTES)
    nested = _size(state, "nested_blocksize", name, file)
    stored.get(f"{module}weight.nested_absmax", (-(-blocks // nested),), FLOATS)
    stored.get(f"{module}weight.nested_quant_map", (256,), FLOATS)
    names += [f"{module}weight.{part}" for part in ("nested_absmax", "nested_quant_map")]
    offset = state.get("nested_offset")
    if not isinstance(offset, (int, float)) or not math.isfinite(offset):
        raise CheckpointError(f"{file}: {shown(name)} has nested_offset {shown(offset)} (expected a number)")
    return FourBitWeight(stored, module, shape, tuple(names), block, nested, float(offset))


def _size(state: Mapping[str, Json], key: str, name: str, file: Path) -> int:
    """Return the numbers of a block. Raises `CheckpointError` for what is no power of two."""
    size = state.get(key)
    if not isinstance(size, int) or not power_of_two(size):
        raise CheckpointError(f"{file}: {shown(name)} has {key} {shown(size)} (expected a power of two)")
    return size


def _state(stored: Stored, name: str) -> Mapping[str, Json]:
    """Return the JSON that a tensor of bytes holds."""
    entry = stored.entries[name]
    if entry.dtype not in BYTES or entry.n_bytes > LONGEST_STATE:
        raise CheckpointError(f"{entry.file}: {shown(name)} is {entry.n_bytes} bytes of {entry.dtype} (expected JSON)")
    found = parse_json(stored.content(name), entry.file)
    if not isinstance(found, dict):
        raise CheckpointError(f"{entry.file}: {shown(name)} is no JSON object (expected the state of its weight)")
    return found
