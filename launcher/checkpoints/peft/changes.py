"""What an adapter does to one weight of its base model, computed in fp32."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.checkpoints.digest import fingerprint
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[], "Tensor"]
"""Returns a stored tensor of the adapter."""


@dataclass(frozen=True)
class Change(ABC):
    """A change of a weight of this ``shape``; that of a linear layer is [outputs, inputs]."""

    shape: tuple[int, ...]

    @abstractmethod
    def __call__(self, base: Tensor) -> Tensor:
        """Return the merged weight in fp32; ``base`` is in fp32."""

    def is_optional(self, name: str) -> bool:
        """Tell whether a model may lack the weight of this name."""
        return False


@dataclass(frozen=True)
class LowRank(Change):
    """LoRA: ``up @ down`` times ``scale`` is added. DoRA also gives every row a ``magnitude``.

    ``saved`` is the weight that it is added to, where the adapter brings it: ``peft`` saves embeddings along.
    """

    down: Read
    up: Read
    scale: float
    magnitude: Read | None = None
    transposed: bool = False
    saved: Read | None = None

    def __call__(self, base: Tensor) -> Tensor:
        delta = self.up().float() @ self.down().float()
        start = base if self.saved is None else self.saved().float()
        made = start + (delta.T if self.transposed else delta) * self.scale
        if self.magnitude is None:
            return made
        rows = self.magnitude().float().reshape(-1, 1) / made.norm(p=2, dim=1, keepdim=True)
        merged: Tensor = rows * made
        return merged


@dataclass(frozen=True)
class Scaled(Change):
    """IA3: every row, or every column, is multiplied by a number of its own."""

    factors: Read

    def __call__(self, base: Tensor) -> Tensor:
        factors = self.factors().float()
        return base * (factors.flatten() if base.ndim == 1 else factors)

    def is_optional(self, name: str) -> bool:
        """IA3 multiplies a bias only where there is one."""
        return name.endswith(".bias")


@dataclass(frozen=True)
class Replaced(Change):
    """A weight that was trained as a whole."""

    value: Read

    def __call__(self, base: Tensor) -> Tensor:
        return self.value().float()


@dataclass(frozen=True)
class Adapter:
    """An opened adapter: metadata only.

    ``changes`` are by the name of the weight, in the names of ``convention``; in Megatron's, a layer has its number.
    ``kind`` is LORA, DORA or IA3. ``base`` is the model that it says it was trained on. ``untied`` says that the
    embedding or the output layer was trained as a copy. ``files`` are what the fingerprint is made of, the settings
    first. ``every_layer`` says that its targets name no single layers.
    """

    folder: Path
    convention: Literal["huggingface", "megatron"]
    kind: str
    changes: Mapping[str, Change]
    base: str
    files: tuple[Path, ...]
    untied: bool = False
    every_layer: bool = False

    def weights_fingerprint(self) -> str:
        """Return the fingerprint of the tensors alone."""
        return fingerprint(self.folder, self.files[1:])

    def combined(self, base: str) -> str:
        """Return the fingerprint of a model with this adapter, from that of the model alone."""
        both = f"{base} {fingerprint(self.folder, self.files)}"
        return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"

    def facts(self) -> dict[str, Json]:
        """Return what reports and the server say of the adapter."""
        made: dict[str, Json] = {"path": str(self.folder), "type": self.kind, "merged_weights": len(self.changes)}
        return made | {"base": self.base, "fingerprint": self.weights_fingerprint()}
