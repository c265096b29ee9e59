"""Weights of 8 bits: stored numbers times one scale for the weight, a row or a block, which is exact in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import as_list, power_of_two
from launcher.checkpoints.huggingface.quantization.weights import QuantizedWeight, Settings, Stored
from launcher.checkpoints.huggingface.safetensors_index import LOADED
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8"}
"""Torch's names of the types of quantised weights."""

SCALES = ("weight_scale_inv", "weight_scale")
"""What stands in place of ``weight`` in the name of its scales; both multiply."""


@dataclass(frozen=True)
class ScaledWeight(QuantizedWeight):
    """The weight ``tensors[0]`` with the scales ``tensors[1]``; ``block`` are the rows and columns of one scale."""

    stored: Stored
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    block: tuple[int, int] | None

    def read(self) -> Tensor:
        numbers = self.stored.read(self.tensors[0], NUMBERS).float()
        return numbers * _spread(self.stored.read(self.tensors[1]).float(), self.shape, self.block)


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of 8 bits with their scales."""
    block = _block(settings)
    for name, entry in stored.entries.items():
        if entry.dtype in NUMBERS and name.endswith(".weight"):
            yield name, _weight(stored, name, block)


def _weight(stored: Stored, name: str, block: tuple[int, int] | None) -> ScaledWeight:
    """Pair a weight with its scales. Raises `CheckpointError` for one without, or of another shape."""
    entry, before = stored.entries[name], name.removesuffix("weight")
    key = next((f"{before}{scale}" for scale in SCALES if f"{before}{scale}" in stored.entries), None)
    if key is None:
        raise CheckpointError(
            f"{entry.file}: {shown(name)} is of type {entry.dtype} without a scale (expected one of "
            f"{', '.join(SCALES)} beside it)"
        )
    found = stored.entries[key]
    if len(entry.shape) != 2 or found.dtype not in LOADED or not _fits(found.shape, entry.shape, block):
        raise CheckpointError(
            f"{found.file}: {shown(key)} is {found.dtype} of shape {list(found.shape)}, which does "
            f"not fit the weight's {list(entry.shape)} (expected one scale, one per row, or one per block)"
        )
    return ScaledWeight(stored, (entry.shape[0], entry.shape[1]), (name, key), block)


def _fits(scales: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] | None) -> bool:
    blocks = block and tuple(-(-size // step) for size, step in zip(shape, block, strict=True))
    return scales in ((), (1,), (1, 1), (shape[0],), (shape[0], 1), blocks)


def _spread(scales: Tensor, shape: tuple[int, int], block: tuple[int, int] | None) -> Tensor:
    """Return the scales in a form that multiplies a weight of this shape."""
    if scales.numel() == 1:
        return scales.reshape(1, 1)
    if (scales.numel() == shape[0] and scales.ndim == 1) or tuple(scales.shape) == (shape[0], 1):
        return scales.reshape(-1, 1)
    assert block is not None  # `_fits`
    return scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def _block(settings: Settings) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale. Raises `CheckpointError` for another value."""
    given = as_list(settings.values, "weight_block_size", settings.file) or _grouped_block(settings.values)
    if not given:
        return None
    if len(given) != 2 or not all(map(power_of_two, given)):
        raise CheckpointError(f"{settings.where}: blocks are {shown(given)} (expected two powers of two)")
    return given[0], given[1]


def _grouped_block(values: Mapping[str, Json]) -> list[Json]:
    """Return compressed-tensors' ``block_structure``, if a group of layers has one."""
    groups = values.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        found = (group.get("weights") or {}).get("block_structure") if isinstance(group, dict) else None
        if isinstance(found, list):
            return found
    return []
