"""AWQ: numbers of 4 bits along the outputs, with a scale and a zero point for a group of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import flag
from launcher.checkpoints.huggingface.quantization.grouped import dequantized, unpacked
from launcher.checkpoints.huggingface.quantization.weights import INTEGERS, QuantizedWeight, Settings, Stored
from launcher.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

BITS, IN_A_WORD = 4, 8
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word, in numbers of 4 bits from the lowest, the weights of eight outputs are."""

VERSION = "gemm"


@dataclass(frozen=True)
class AwqWeight(QuantizedWeight):
    """``qweight`` is [inputs, words of outputs], ``qzeros`` [groups, words], ``scales`` [groups, outputs]."""

    stored: Stored
    module: str
    shape: tuple[int, int]
    group_size: int
    tensors: tuple[str, ...]

    def read(self) -> Tensor:
        import torch

        words = self.stored.read(f"{self.module}qweight", INTEGERS)
        zeros = _ordered(self.stored.read(f"{self.module}qzeros", INTEGERS)).T
        scales = self.stored.read(f"{self.module}scales").T
        groups = torch.arange(self.shape[1]) // self.group_size
        return dequantized(lambda start, end: _ordered(words[start:end]).T, zeros, scales, groups)


def _ordered(words: Tensor) -> Tensor:
    """Return the numbers of every row of words in the order of the outputs."""
    numbers = unpacked(words, BITS, words.shape[1] * IN_A_WORD)
    return numbers.reshape(words.shape[0], -1, IN_A_WORD)[:, :, list(ORDER)].flatten(1)


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of a folder in the format of AutoAWQ's version GEMM."""
    size = _group_size(settings)
    for module in stored.modules("qweight"):
        inputs, words = stored.matrix(f"{module}qweight", INTEGERS)
        own, outputs = (size if size > 0 else inputs), words * IN_A_WORD
        groups = -(-inputs // own)
        stored.get(f"{module}qzeros", (groups, words), INTEGERS)
        stored.get(f"{module}scales", (groups, outputs))
        names = tuple(f"{module}{name}" for name in ("qweight", "qzeros", "scales"))
        yield f"{module}weight", AwqWeight(stored, module, (outputs, inputs), own, names)


def _group_size(settings: Settings) -> int:
    """Return how many inputs share a scale, -1 for all. Raises `CheckpointError` for what is not read exactly."""
    values = settings.values
    bits = values.get("bits", values.get("w_bit", BITS))
    size = values.get("group_size", values.get("q_group_size", 128))
    version = values.get("version") or values.get("format") or VERSION
    if bits != BITS or type(bits) is not int:
        raise CheckpointError(f"{settings.where}: bits is {shown(bits)} ({BITS} is dequantised for awq)")
    if not isinstance(version, str) or version.lower() != VERSION:
        raise CheckpointError(f"{settings.where}: version is {shown(version)} ({VERSION} is dequantised for awq)")
    if not flag({"zero_point": True, **values}, "zero_point", settings.file, True):
        raise CheckpointError(f"{settings.where}: zero_point is false (true is dequantised for awq)")
    if type(size) is not int or (size < 1 and size != -1):
        raise CheckpointError(f"{settings.where}: group_size is {shown(size)} (expected a positive whole number or -1)")
    return size
