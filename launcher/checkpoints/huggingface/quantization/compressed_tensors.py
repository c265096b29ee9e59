"""compressed-tensors: weights of 8 bits with scales, packed ones of 2, 4 or 8 bits in groups, and 4-bit floats."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.huggingface.quantization import fp4, scaled
from launcher.checkpoints.huggingface.quantization.grouped import WORD, dequantized, unpacked, words_of
from launcher.checkpoints.huggingface.quantization.weights import INTEGERS, QuantizedWeight, Settings, Stored
from launcher.checkpoints.huggingface.safetensors_index import LOADED
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

SCALED = ("float-quantized", "int-quantized", "naive-quantized")
"""Formats that store one number of 8 bits for each weight."""

PACKED = "pack-quantized"
FLOATS = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
BITS = (2, 4, 8)
"""Numbers that no word is cut through; how those of other sizes are packed differs with the library's version."""


@dataclass(frozen=True)
class PackedWeight(QuantizedWeight):
    """``weight_packed`` is [outputs, words of inputs], ``weight_scale`` [outputs, groups]; zero points are packed."""

    stored: Stored
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    bits: int

    def read(self) -> Tensor:
        words = self.stored.read(f"{self.module}weight_packed", INTEGERS)
        scales = self.stored.read(f"{self.module}weight_scale").reshape(-1, self._groups())
        scales = scales.expand(self.shape[0], -1)

        def numbers(start: int, end: int) -> Tensor:
            return unpacked(words[:, start * self.bits // WORD : words_of(end, self.bits)], self.bits, end - start)

        return dequantized(numbers, self._zeros(), scales, self._order())

    def _groups(self) -> int:
        shape = self.stored.entries[f"{self.module}weight_scale"].shape
        return shape[1] if len(shape) == 2 else 1

    def _zeros(self) -> Tensor:
        """Return the zero points [outputs, groups]: numbers and zero points are stored with the same offset."""
        import torch

        name, groups = f"{self.module}weight_zero_point", self._groups()
        if name not in self.tensors:
            return torch.full((self.shape[0], groups), 2 ** (self.bits - 1))
        words = self.stored.read(name, INTEGERS).T.contiguous()
        return unpacked(words, self.bits, self.shape[0]).T

    def _order(self) -> Tensor:
        """Return the group of every input."""
        import torch

        name, groups = f"{self.module}weight_g_idx", self._groups()
        plain = torch.arange(self.shape[1]) // -(-self.shape[1] // groups)
        if name not in self.tensors:
            return plain
        found = self.stored.read(name, INTEGERS).long()
        if bool((found == -1).all()):  # as it is initialised, for numbers in order
            return plain
        if bool((found < 0).any()) or bool((found >= groups).any()):
            file = self.stored.entries[name].file
            raise CheckpointError(f"{file}: {shown(name)} names groups beyond the {groups} of its scales")
        return found


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the quantised weights of a folder, whichever of the formats each has."""
    formats = _formats(settings)
    if formats & set(SCALED):
        yield from scaled.find(stored, settings)
    widths = _widths(settings) if PACKED in formats else []
    for module in stored.modules("weight_packed") if formats & {PACKED, *FLOATS} else ():
        integers = stored.entries[f"{module}weight_packed"].dtype in INTEGERS
        if widths and (integers or not formats & set(FLOATS)):
            yield f"{module}weight", _packed(stored, module, widths, settings)
        else:
            yield f"{module}weight", _floats(stored, module)


def _floats(stored: Stored, module: str) -> fp4.Fp4Weight:
    """Return a weight of 4-bit floats: NVFP4 has one scale more than MXFP4."""
    names = f"{module}weight_packed", f"{module}weight_scale"
    stored.present(*names)
    outer = f"{module}weight_global_scale"
    return fp4.nvfp4(stored, (*names, outer), "divides") if outer in stored.entries else fp4.mxfp4(stored, names)


def _formats(settings: Settings) -> set[str]:
    """Return the formats of all groups. Raises `CheckpointError` for one that is not read exactly."""
    values = settings.values
    sparse = values.get("sparsity_config") or {}
    own = {str(group["format"]) for group in _groups(settings) if group.get("format")}
    found = own if own and values.get("format") == "mixed-precision" else {str(values.get("format"))}
    for each in sorted(found - {PACKED, *SCALED, *FLOATS}):
        known = ", ".join((*SCALED, PACKED, *FLOATS))
        raise CheckpointError(f"{settings.where}: format is {shown(each)} ({known} are read)")
    if not isinstance(sparse, dict) or sparse.get("format", "dense") != "dense":
        raise CheckpointError(f"{settings.where}: sparsity_config is {shown(sparse)} (expected none, or dense)")
    if values.get("transform_config"):
        raise CheckpointError(f"{settings.where}: transform_config is set, which is not read here (expected none)")
    return found


def _groups(settings: Settings) -> list[Mapping[str, Json]]:
    groups = settings.values.get("config_groups")
    return [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []


@dataclass(frozen=True)
class _Width:
    """What a group of layers says of its packed weights."""

    bits: int
    symmetric: bool
    group_size: int | None


def _widths(settings: Settings) -> list[_Width]:
    """Return what groups say of their packed weights. Raises `CheckpointError` for what is not read."""
    found = []
    for group in _groups(settings):
        about = group.get("weights")
        if not isinstance(about, dict) or group.get("format", PACKED) not in (PACKED, None):
            continue
        bits, size = about.get("num_bits"), about.get("group_size")
        if about.get("type", "int") != "int" or bits not in BITS or type(bits) is not int:
            what = f"num_bits={shown(bits)} of type {shown(about.get('type', 'int'))}"
            raise CheckpointError(f"{settings.where}: {what} ({', '.join(map(str, BITS))} of type int are dequantised)")
        found.append(_Width(bits, about.get("symmetric", True) is not False, size if type(size) is int else None))
    if not found:
        raise CheckpointError(f"{settings.where}: config_groups says nothing of weights (expected num_bits)")
    return found


def _packed(stored: Stored, module: str, widths: list[_Width], settings: Settings) -> PackedWeight:
    """Compare the tensors of a module with each other and with the groups. Raises `CheckpointError`."""
    rows, words = stored.matrix(f"{module}weight_packed", INTEGERS)
    shape = _shape(stored, f"{module}weight_shape")
    asymmetric = f"{module}weight_zero_point" in stored.entries
    fitting = {w for w in widths if words_of(shape[1], w.bits) == words and w.symmetric is not asymmetric}
    scales = stored.entries.get(f"{module}weight_scale")
    groups = scales.shape[1] if scales is not None and len(scales.shape) == 2 else 1
    fitting = {w for w in fitting if groups == _count(w, shape[1])}
    if shape[0] != rows or len({w.bits for w in fitting}) != 1:
        raise CheckpointError(
            f"{settings.where}: {module:.200}weight_packed of shape {[rows, words]} with {groups} groups does "
            f"not fit one num_bits, group_size and symmetric of config_groups (weight_shape is {list(shape)})"
        )
    bits = fitting.pop().bits
    _check_scales(stored, f"{module}weight_scale", shape[0], groups)
    names = ["weight_packed", "weight_scale", "weight_shape"]
    if asymmetric:
        stored.get(f"{module}weight_zero_point", (words_of(shape[0], bits), groups), INTEGERS)
        names.append("weight_zero_point")
    if f"{module}weight_g_idx" in stored.entries:
        stored.get(f"{module}weight_g_idx", (shape[1],), INTEGERS)
        names.append("weight_g_idx")
    return PackedWeight(stored, module, shape, tuple(f"{module}{name}" for name in names), bits)


def _count(width: _Width, inputs: int) -> int:
    """Return the groups of a row; 0 where they would not have the same size, which the format does not have."""
    size = width.group_size
    if size is not None and 0 < size < inputs and inputs % size:
        return 0
    return -(-inputs // size) if size is not None and size > 0 else 1


def _check_scales(stored: Stored, name: str, rows: int, groups: int) -> None:
    entry = stored.entries.get(name)
    shape = entry.shape if entry is not None and entry.shape in ((), (1,), (1, 1), (rows,)) else (rows, groups)
    stored.get(name, shape, LOADED)


def _shape(stored: Stored, name: str) -> tuple[int, int]:
    """Return the two numbers of a ``weight_shape``, which is read without torch."""
    entry = stored.entries.get(name)
    if entry is None or entry.shape != (2,) or entry.dtype not in ("I64", "I32"):
        file = next(iter(stored.entries.values())).file if entry is None else entry.file
        raise CheckpointError(f"{file}: {shown(name)} is missing or no pair of whole numbers (expected rows, columns)")
    rows, columns = struct.unpack("<2q" if entry.dtype == "I64" else "<2i", stored.content(name))
    if rows < 1 or columns < 1:
        raise CheckpointError(f"{entry.file}: {shown(name)} is {[rows, columns]} (expected rows, columns)")
    return rows, columns
