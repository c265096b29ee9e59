"""GPTQ: numbers of 2, 3, 4 or 8 bits along the inputs, with a scale and a zero point for a group of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import flag
from launcher.checkpoints.huggingface.quantization.grouped import WORD, dequantized, unpacked, words_of
from launcher.checkpoints.huggingface.quantization.weights import INTEGERS, QuantizedWeight, Settings, Stored
from launcher.checkpoints.huggingface.safetensors_index import LOADED
from launcher.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

BITS = (2, 3, 4, 8)
OFFSETS = {"gptq": 1, "gptq_v2": 0}
"""What each format adds to a stored zero point."""

NEUTRAL = ("rotation", "adapter", "is_marlin_format")
"""Settings that change the numbers, or their order, if they are set."""


@dataclass(frozen=True)
class Gptq:
    """Settings for all weights; with ``dynamic`` ones differ, and their tensors decide."""

    bits: int
    group_size: int
    offset: int
    symmetric: bool
    ordered: bool
    dynamic: bool


@dataclass(frozen=True)
class GptqWeight(QuantizedWeight):
    """``qweight`` is [words of inputs, outputs], ``scales`` and ``qzeros`` are [groups, outputs or words of them]."""

    stored: Stored
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    bits: int
    settings: Gptq

    def read(self) -> Tensor:
        words = self.stored.read(f"{self.module}qweight", INTEGERS).T.contiguous()
        scales = self.stored.read(f"{self.module}scales").T
        groups = self._groups(scales.shape[1])

        def numbers(start: int, end: int) -> Tensor:
            return unpacked(words[:, start * self.bits // WORD : words_of(end, self.bits)], self.bits, end - start)

        return dequantized(numbers, self._zeros(), scales, groups)

    def _zeros(self) -> Tensor:
        """Return the zero points [outputs, groups]. Raises `CheckpointError` where readers of the format differ."""
        name, most = f"{self.module}qzeros", 2**self.bits - 1
        found = unpacked(self.stored.read(name, INTEGERS), self.bits, self.shape[0]).T
        if self.settings.offset and bool((found == most).any()):
            raise self._refused(
                name, f"holds {most}, a zero point that kernels read as 0 or {most + 1} (expected gptq_v2, or less)"
            )
        zeros = found + self.settings.offset
        middle = 2 ** (self.bits - 1)
        if self.settings.symmetric and not self.settings.dynamic and bool((zeros != middle).any()):
            raise self._refused(name, f"holds other zero points than {middle}, and sym is true (expected sym=false)")
        return zeros

    def _groups(self, count: int) -> Tensor:
        """Return the group of every input."""
        import torch

        size = self.settings.group_size if self.settings.group_size > 0 else self.shape[1]
        if self.settings.dynamic:
            size = -(-self.shape[1] // count)
        plain = torch.arange(self.shape[1]) // size
        name = f"{self.module}g_idx"
        if name not in self.stored.entries:
            return plain
        found = self.stored.read(name, INTEGERS).long()
        if bool((found < 0).any()) or bool((found >= count).any()):
            raise self._refused(name, f"names groups beyond the {count} of its scales")
        if self.settings.ordered and not bool((found == plain).all()):
            raise self._refused(name, "is not in order, and desc_act is false (expected desc_act=true)")
        return found

    def _refused(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.stored.entries[name].file}: {shown(name)} {what}")


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of a folder in GPTQ's format, as AutoGPTQ and GPTQModel write it."""
    found = _settings(settings)
    for module in stored.modules("qweight"):
        yield f"{module}weight", _weight(stored, module, found)


def _settings(settings: Settings) -> Gptq:
    values = settings.values
    bits, size = values.get("bits"), values.get("group_size", -1)
    layout = values.get("checkpoint_format") or values.get("format") or "gptq"
    if bits not in BITS or type(bits) is not int:
        raise CheckpointError(f"{settings.where}: bits is {shown(bits)} (dequantised: {', '.join(map(str, BITS))})")
    if type(size) is not int or (size < 1 and size != -1):
        raise CheckpointError(f"{settings.where}: group_size is {shown(size)} (expected a positive whole number or -1)")
    if layout not in tuple(OFFSETS):
        raise CheckpointError(f"{settings.where}: checkpoint_format is {shown(layout)} ({', '.join(OFFSETS)} is read)")
    for name in NEUTRAL:
        if values.get(name):
            raise CheckpointError(f"{settings.where}: {name} is {shown(values[name])}, which is not read here")
    if values.get("pack_dtype", "int32") != "int32":
        raise CheckpointError(f"{settings.where}: pack_dtype is {shown(values['pack_dtype'])} (int32 is read)")
    ordered = not flag(values, "desc_act", settings.file)
    symmetric = flag(values, "sym", settings.file, True)
    return Gptq(bits, size, OFFSETS[str(layout)], symmetric, ordered, bool(values.get("dynamic")))


def _weight(stored: Stored, module: str, found: Gptq) -> GptqWeight:
    """Compare the tensors of a module with each other. Raises `CheckpointError`."""
    rows, outputs = stored.matrix(f"{module}qweight", INTEGERS)
    index = stored.entries.get(f"{module}g_idx")
    inputs = index.shape[0] if index is not None and len(index.shape) == 1 else rows * WORD // found.bits
    bits = next((b for b in BITS if found.dynamic and words_of(inputs, b) == rows), found.bits)
    groups = stored.matrix(f"{module}scales", LOADED)[0] if f"{module}scales" in stored.entries else 1
    if not found.dynamic:
        groups = -(-inputs // found.group_size) if found.group_size > 0 else 1
    stored.get(f"{module}qweight", (words_of(inputs, bits), outputs), INTEGERS)
    stored.get(f"{module}scales", (groups, outputs))
    stored.get(f"{module}qzeros", (groups, words_of(outputs, bits)), INTEGERS)
    names = ["qweight", "scales", "qzeros"]
    if index is not None:
        stored.get(f"{module}g_idx", (inputs,), INTEGERS)
        names.append("g_idx")
    return GptqWeight(stored, module, (outputs, inputs), tuple(f"{module}{name}" for name in names), bits, found)
