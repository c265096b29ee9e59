"""A checkpoint with an adapter merged into its weights, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from launcher.checkpoints import convert, parts
from launcher.checkpoints.base import Architecture, Checkpoint
from launcher.checkpoints.export.huggingface import target
from launcher.checkpoints.peft.changes import Adapter, Change, LowRank
from launcher.checkpoints.peft.depth import refuse_skipped_layers
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDDING, OUTPUT = "embedding.word_embeddings", "output_layer"


class AdaptedCheckpoint(Checkpoint):
    """A base checkpoint whose weights are merged with an adapter in fp32 as they are read.

    Raises `CheckpointError` for an adapter of another model: every weight that it changes must be there, in its shape.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        self._base, self.adapter = base, adapter
        self.layout, self.path, self.bounds = base.layout, base.path, base.bounds
        self._unties = adapter.untied and base.architecture.tied
        self.architecture = replace(base.architecture, tied=base.architecture.tied and not adapter.untied)
        self._names = _names(self.architecture, adapter, str(base.path))
        places = dict(self._places())
        self._changes = self._checked(places)
        refuse_skipped_layers(adapter, places, base.path)
        self._refuse_conventions()

    def tokenizer(self) -> Tokenizer:
        return self._base.tokenizer()

    def reading(self) -> AbstractContextManager[None]:
        return self._base.reading()

    def facts(self) -> dict[str, Json]:
        return self._base.facts() | {"peft": self.adapter.facts()}

    def unread_files(self) -> list[str]:
        return self._base.unread_files()

    def fingerprint(self) -> str:
        return self.adapter.combined(self._base.fingerprint())

    def load_into(self, model: nn.Module) -> None:
        with self.reading():
            convert.fill(model, self.architecture, self._wholes)

    def _wholes(self, module: str, kind: str) -> tuple[list[Tensor], str]:
        value = self.parameter(module, kind)
        joined = self.architecture.gated and module.endswith("linear_fc1")
        return list(value.chunk(2)) if joined else [value], f"{self.path}: {module}.{kind}"

    def parameter(self, module: str, kind: str) -> Tensor:
        value = self._base.parameter(EMBEDDING if self._unties and module == OUTPUT else module, kind)
        if self._names is None:
            change = self._changes.get(f"{module}.{kind}")
            return value if change is None else change(value.float())
        names = self._names
        if not self._changes.keys() & set(convert.stored_names(module, kind, names)):
            return value
        split = convert.split(value.float(), module, kind, self.architecture, names)
        made = {name: self._changes[name](part) if name in self._changes else part for name, part in split}
        return convert.parameter(module, kind, self.architecture, names, made.__getitem__, str(self.adapter.folder))

    def _places(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape of every weight, as the adapter calls them."""
        a = self.architecture
        for module, kind in parts.parameters(a):
            if self._names is None:
                yield f"{module}.{kind}", parts.shape(a, module, kind)
            else:
                yield from convert.split_shapes(module, kind, a, self._names)

    def _checked(self, places: Mapping[str, tuple[int, ...]]) -> Mapping[str, Change]:
        """Return the changes. Raises `CheckpointError` for one of a weight that the model lacks or has otherwise."""
        found = {n: c for n, c in self.adapter.changes.items() if n in places or not c.is_optional(n)}
        for name, change in found.items():
            if name not in places:
                raise self._other(f"it changes '{name:.200}', which {self.path} lacks")
            if any(x and x != y for x, y in zip(change.shape, places[name], strict=True)):
                raise self._other(
                    f"it changes '{name:.200}' of shape {list(change.shape)}; {self.path} has {list(places[name])}"
                )
        return found

    def _other(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"model.peft={self.adapter.folder}: an adapter of another model (its base: {self.adapter.base:.99}): {what}"
        )

    def _refuse_conventions(self) -> None:
        """Refuse weights of Hugging Face's conventions where the base is stored in others."""
        a, folder = self.architecture, self.adapter.folder
        ends = {"embedding.word_embeddings.weight", *(self._end_names())} & set(self._changes)
        if a.tied and any(
            name for name in ends if not self.adapter.untied and isinstance(self._changes[name], LowRank)
        ):
            raise CheckpointError(
                f"model.peft={folder}: changes the embedding, which {self.path} also uses as its output layer; "
                "a merge would not be what was trained"
            )
        if self._names is not None and (a.zero_centered_gamma or a.rotary_interleaved):
            raise CheckpointError(
                f"model.peft={folder}: an adapter of Hugging Face's; the weights of {self.path} are stored in another "
                "way (convert it with convert.format=hf first)"
            )

    def _end_names(self) -> Iterator[str]:
        if self._names is not None:
            for root in (EMBEDDING, OUTPUT):
                yield f"{self._names.roots[root]}.weight"


def _names(a: Architecture, adapter: Adapter, source: str) -> convert.Names | None:
    """Return how Hugging Face calls the model's weights; None for an adapter in Megatron's names."""
    return None if adapter.convention == "megatron" else target(a, a.dtype, source).names
