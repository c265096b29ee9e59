"""The values of a metric by the item that they belong to, without an object for each of them."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise

from launcher.core.types import Json


class Clusters:
    """Values by item: repeats of one item are no independent samples, and stand together.

    Values that are floats take 8 bytes each. `add` begins an item or goes on with the last one.
    """

    def __init__(self) -> None:
        self._values: array[float] | list[Json] = array("d")
        self._sizes: array[int] | None = None
        self._items = 0

    @classmethod
    def of(cls, values: Iterable[tuple[str, Json]]) -> Clusters:
        """Return the values of pairs with an item's id, whose values may stand apart; items keep their order."""
        by_item: dict[str, list[Json]] = defaultdict(list)
        for item, value in values:
            by_item[item].append(value)
        made = cls()
        for found in by_item.values():
            for number, value in enumerate(found):
                made.add(value, new_item=not number)
        return made

    def add(self, value: Json, *, new_item: bool) -> None:
        if type(value) is not float and isinstance(self._values, array):
            self._values = self._values.tolist()
        self._values.append(value)
        if self._sizes is None and not new_item and self._items:
            self._sizes = array("I", [1]) * self._items
        if new_item or not self._items:
            self._items += 1
            if self._sizes is not None:
                self._sizes.append(1)
        elif self._sizes is not None:
            self._sizes[-1] += 1

    def __len__(self) -> int:
        """Return the number of items."""
        return self._items

    @property
    def count(self) -> int:
        """The number of values."""
        return len(self._values)

    @property
    def flat(self) -> Sequence[Json]:
        """All values, item by item."""
        return self._values

    def values(self) -> Iterator[Sequence[Json]]:
        """Yield the values of each item."""
        if self._sizes is None:
            return (self._values[place : place + 1] for place in range(self._items))
        ends = accumulate(self._sizes, initial=0)
        return (self._values[start:end] for start, end in pairwise(ends))

    def sums_from(self, mean: float) -> Iterator[float]:
        """Yield by how much the values of each item differ from a mean, in sum."""
        if self._sizes is None:
            return (value - mean for value in self._values)
        return (math.fsum(value - mean for value in values) for values in self.values())

    def starts(self) -> Sequence[int]:
        """Return the place of each item's first value."""
        return range(self._items) if self._sizes is None else list(accumulate(self._sizes, initial=0))[:-1]

    def picker(self) -> Callable[[Iterable[int]], list[Json]]:
        """Return a function that lists the values of items by their numbers."""
        values = self._values
        if self._sizes is None:
            return lambda numbers: [values[number] for number in numbers]
        ends = array("Q", accumulate(self._sizes, initial=0))
        return lambda numbers: list(chain.from_iterable(values[ends[n] : ends[n + 1]] for n in numbers))
