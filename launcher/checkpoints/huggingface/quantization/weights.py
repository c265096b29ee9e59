"""What a quantised weight is to the reader of a folder: a shape, the stored tensors that it takes, and its numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.finite import is_finite
from launcher.checkpoints.huggingface.safetensors_index import LOADED, Entry, read_tensor
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

INTEGERS = {"I32": "int32"}
BYTES = {"U8": "uint8"}


@dataclass(frozen=True)
class Settings:
    """What a folder says of its quantisation: the method, its values, and the file and key that hold them."""

    method: str | None
    values: Mapping[str, Json]
    file: Path
    key: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}: {self.key}" if self.key else str(self.file)


class QuantizedWeight(ABC):
    """A weight in the form ``shape``, made of the stored ``tensors``, which nothing else takes."""

    shape: tuple[int, ...]
    tensors: tuple[str, ...]

    @abstractmethod
    def read(self) -> Tensor:
        """Load the weight in fp32; no other weight is in memory. Raises `CheckpointError`."""


@dataclass(frozen=True)
class Stored:
    """The tensors of a folder as they are stored, for a module's own parts by their ends."""

    entries: Mapping[str, Entry]

    def modules(self, end: str) -> Iterator[str]:
        """Yield what stands before ``end`` in the names of tensors, with the point."""
        yield from (name.removesuffix(end) for name in self.entries if name.endswith(f".{end}"))

    def get(self, name: str, shape: tuple[int, ...], types: Mapping[str, str] = LOADED) -> Entry:
        """Return a tensor that has to be there. Raises `CheckpointError` if it is missing or otherwise."""
        entry = self.entries.get(name)
        if entry is None:
            file = next(iter(self.entries.values())).file
            raise CheckpointError(f"{file.parent}: tensor {shown(name)} is missing (its quantised weight needs it)")
        if entry.dtype not in types or entry.shape != shape:
            raise CheckpointError(
                f"{entry.file}: {shown(name)} is {entry.dtype} of shape {list(entry.shape)} (expected "
                f"{' or '.join(types)} of shape {list(shape)}, which fits its quantised weight)"
            )
        return entry

    def present(self, *names: str) -> None:
        """Raise `CheckpointError` for a tensor that is not there."""
        for name in names:
            if name not in self.entries:
                self.get(name, ())

    def matrix(self, name: str, types: Mapping[str, str]) -> tuple[int, int]:
        """Return the rows and columns of a stored matrix. Raises `CheckpointError` if it is none."""
        entry = self.entries[name]
        if entry.dtype not in types or len(entry.shape) != 2 or not all(entry.shape):
            raise CheckpointError(
                f"{entry.file}: {shown(name)} is {entry.dtype} of shape {list(entry.shape)} (expected a matrix of "
                f"{' or '.join(types)})"
            )
        return entry.shape[0], entry.shape[1]

    def read(self, name: str, types: Mapping[str, str] = LOADED) -> Tensor:
        return read_tensor(self.entries[name], name, types)

    def content(self, name: str) -> bytes:
        """Return the bytes of a small tensor, without torch."""
        entry = self.entries[name]
        with entry.file.open("rb") as stream:
            stream.seek(entry.start)
            return stream.read(entry.n_bytes)


Find = Callable[[Stored, Settings], Iterator[tuple[str, QuantizedWeight]]]
"""Yields the quantised weights of a folder by the names that they would have unquantised.

Raises `CheckpointError` for one that is incomplete or that is not read exactly.
"""


@dataclass(frozen=True)
class Weights:
    """The weights of a folder by name, as a model needs them; ``entries`` of ``quantized`` ones are of type F32.

    ``stored`` are all tensors as they are stored.
    """

    entries: Mapping[str, Entry]
    stored: Mapping[str, Entry]
    quantized: Mapping[str, QuantizedWeight]
    method: str | None = None

    def read(self, name: str) -> Tensor:
        """Load one whole weight; a quantised one in fp32. Raises `CheckpointError`, also for scales that are NaN."""
        found = self.quantized.get(name)
        if found is None:
            return read_tensor(self.entries[name], name)
        value = found.read()
        if not is_finite(value):
            parts = ", ".join(shown(part) for part in found.tensors)
            raise CheckpointError(
                f"{self.entries[name].file}: {shown(name)} is NaN or infinite in places once it is dequantised "
                f"(expected finite numbers and scales in {parts})"
            )
        return value

    def facts(self) -> dict[str, Json]:
        if not self.quantized:
            return {}
        return {"dequantised_weights": len(self.quantized), "quant_method": self.method}


def combined(
    stored: Mapping[str, Entry], quantized: Mapping[str, QuantizedWeight], unused: set[str], method: str | None
) -> Weights:
    """Return what a model is made of: quantised weights in place of the tensors that they take."""
    taken = {tensor: name for name, weight in quantized.items() for tensor in weight.tensors}
    entries = {name: entry for name, entry in stored.items() if name not in taken and name not in unused}
    for name, weight in quantized.items():
        if name in entries:
            raise CheckpointError(f"{entries[name].file}: {shown(name)} is stored plain and quantised (expected one)")
        entries[name] = replace(stored[weight.tensors[0]], shape=weight.shape, dtype="F32")
    return Weights(entries, stored, quantized, method)
