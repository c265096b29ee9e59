"""Picks the examples that are shown before a question."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from launcher.core.errors import TaskError
from launcher.tasks.items import Item, read


@dataclass(frozen=True)
class Examples:
    """``count`` items of a file for each question: the first ones, those of ``indices``, or drawn with ``seed``.

    Of items with the same question only the first is shown, unless ``indices`` name them.
    ``question`` gives the text by which items are compared: one with the question that is asked would show the answer.
    """

    path: str
    config: str
    split: str
    count: int
    indices: Sequence[int]
    seed: int | None
    question: Callable[[Item], str]

    def of(self, item: Item) -> list[Item]:
        """Return the examples of an item. Raises `TaskError` where there are too few besides the item itself."""
        if not self.count:
            return []
        asked = self.question(item)
        shown = [item for text, item in self._candidates(asked) if text != asked][: self.count]
        if len(shown) < self.count:
            where = "fewshot_indices" if self.indices else self.path
            raise TaskError(f"{item.where}: fewshot={self.count} examples are needed besides the item itself ({where})")
        return shown

    @cached_property
    def pool(self) -> Mapping[str, Item]:
        """The items that may be shown, by their questions; of equal questions the first. Raises `TaskError`."""
        found: dict[str, Item] = {}
        for item in read(self.path, config=self.config, split=self.split):
            found.setdefault(self.question(item), item)
            if self.seed is None and len(found) > self.count:
                break
        if len(found) < self.count:
            raise TaskError(
                f"{self.path}: fewshot={self.count} examples are needed, there are {len(found)} different questions"
            )
        return found

    @cached_property
    def _listed(self) -> list[tuple[str, Item]]:
        """The items of ``indices`` with their questions, in their order."""
        last = max(self.indices) + 1
        found = list(islice(read(self.path, config=self.config, split=self.split), last))
        if len(found) < last:
            raise TaskError(f"{self.path}: fewshot_indices has {last - 1}; the last row is {len(found) - 1}")
        return [(self.question(found[index]), found[index]) for index in self.indices]

    def _candidates(self, asked: str) -> Sequence[tuple[str, Item]]:
        """Return what may be shown, in this order, with its question; a draw depends on the seed and the question."""
        if self.indices:
            return self._listed
        if self.seed is None:
            return self._pairs
        draw = random.Random(f"{self.seed}\n{asked}")
        return draw.sample(self._pairs, min(len(self._pairs), self.count + 1))

    @cached_property
    def _pairs(self) -> list[tuple[str, Item]]:
        return list(self.pool.items())
