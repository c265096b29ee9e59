"""Weights of 4-bit floats (E2M1), two to a byte, with a scale for a block of a row: NVFP4 and MXFP4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from launcher.checkpoints.huggingface.quantization.weights import BYTES, QuantizedWeight, Stored

if TYPE_CHECKING:
    from torch import Tensor

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits stand for; the fourth is the sign."""

FLOATS = {"F32": "float32"}
NV_BLOCK, MX_BLOCK = 16, 32
NV_SCALES: Mapping[str, str] = {"F8_E4M3": "float8_e4m3fn"}
MX_SCALES: Mapping[str, str] = {"U8": "uint8"}
"""A scale of MXFP4 is a power of two: its exponent plus 127."""


@dataclass(frozen=True)
class Fp4Weight(QuantizedWeight):
    """The numbers ``tensors[0]`` with the scales ``tensors[1]``, and for NVFP4 one scale of them all, ``tensors[2]``.

    ``outer`` says whether that one multiplies the others, or divides them.
    """

    stored: Stored
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    outer: Literal["multiplies", "divides"] = "multiplies"

    def read(self) -> Tensor:
        import torch

        pairs = self.stored.read(self.tensors[0], BYTES)
        values = torch.tensor([*VALUES, *(-value for value in VALUES)])
        made = torch.empty(self.shape)
        made[:, 0::2], made[:, 1::2] = values[(pairs & 15).int()], values[(pairs >> 4).int()]
        scales = self._scales()
        blocks = made.view(self.shape[0], scales.shape[1], -1)
        blocks *= scales.unsqueeze(-1)
        return made

    def _scales(self) -> Tensor:
        import torch

        if len(self.tensors) == 2:
            exponents = self.stored.read(self.tensors[1], MX_SCALES).int() - 127
            return torch.ldexp(torch.ones(exponents.shape), exponents)
        scales = self.stored.read(self.tensors[1], NV_SCALES).float()
        outer = self.stored.read(self.tensors[2], FLOATS).reshape(())
        return scales / outer if self.outer == "divides" else scales * outer


def nvfp4(stored: Stored, names: tuple[str, str, str], outer: Literal["multiplies", "divides"]) -> Fp4Weight:
    """Return a weight of NVFP4. Raises `CheckpointError` for tensors that do not fit each other."""
    shape = _checked(stored, names[0], names[1], NV_BLOCK, NV_SCALES)
    found = stored.entries.get(names[2])
    stored.get(names[2], (1,) if found is not None and found.shape == (1,) else (), FLOATS)
    return Fp4Weight(stored, shape, names, outer)


def mxfp4(stored: Stored, names: tuple[str, str]) -> Fp4Weight:
    """Return a weight of MXFP4. Raises `CheckpointError` for tensors that do not fit each other."""
    return Fp4Weight(stored, _checked(stored, *names, MX_BLOCK, MX_SCALES), names)


def _checked(stored: Stored, numbers: str, scales: str, block: int, types: Mapping[str, str]) -> tuple[int, int]:
    rows, pairs = stored.matrix(numbers, BYTES)
    stored.get(scales, (rows, -(-2 * pairs // block)), types)
    stored.get(numbers, (rows, -(-2 * pairs // block) * block // 2), BYTES)
    return rows, 2 * pairs
