"""What a layout has to say to be converted into: its files, and the bytes of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from launcher.checkpoints.export.plan import Shard, Unit
from launcher.core.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Iterable[tuple[Unit, "Tensor"]]
"""The parameters of a file in its order, one in memory at a time."""

GB = 10**9


class Format(ABC):
    """A model in the terms of one layout, decided from metadata alone.

    ``model`` is what the layout calls this kind of model. ``dtype`` is the type that weights are asked to have.
    """

    model: str
    dtype: str
    shards: tuple[Shard, ...]

    @abstractmethod
    def content(
        self, shard: Shard, parameters: Parameters, tokenizer: Tokenizer | None
    ) -> Iterator[bytes | memoryview]:
        """Yield the bytes of a file of weights."""

    @abstractmethod
    def small_files(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
        """Yield every file beside the weights; the one by which readers know the folder is the last."""

    def transformed(self, value: Tensor, module: str, kind: str) -> Tensor:
        """Return a parameter in the layout's conventions; Megatron's own unless a layout has others."""
        return value

    def dtype_of(self, unit: Unit) -> str:
        """Return the type of one parameter."""
        return self.dtype

    @property
    @abstractmethod
    def bytes_of_weights(self) -> int:
        """How many bytes the weights take, without what is around them."""
