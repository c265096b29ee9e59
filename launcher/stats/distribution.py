"""Quantiles of any number of values: exact for few, within 1 % for many."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from launcher.stats.quantiles import quantile
from launcher.stats.sketch import GROWTH, Sketch

MOST_EXACT = 20_000
"""So many values are kept; more of them are counted in a `Sketch`."""


class Distribution:
    """Values from 0, as many as there are: `count`, the `least`, the `most` and quantiles.

    Up to `MOST_EXACT` values, quantiles are exact and interpolated. With more, they are those of a `Sketch`.
    """

    def __init__(self) -> None:
        self.count, self.least, self.most = 0, math.inf, 0.0
        self._values = array("d")
        self._sketch: Sketch | None = None

    def add(self, value: float) -> None:
        self.count += 1
        self.least, self.most = min(self.least, value), max(self.most, value)
        if self._sketch is not None:
            self._sketch.add(value)
            return
        self._values.append(value)
        if self.count > MOST_EXACT:
            self._sketch = Sketch()
            for each in self._values:
                self._sketch.add(each)
            del self._values[:]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return the values below which these shares lie; nothing without values."""
        if not self.count:
            return []
        if self._sketch is None:
            ordered = sorted(self._values)
            return [quantile(ordered, share) for share in shares]
        return [self._within(self._sketch.quantile(share) or 0.0) for share in shares]

    def weights(self) -> list[tuple[float, int]]:
        """Return values with their counts, in ascending order; those of a sketch are its buckets."""
        if self._sketch is None:
            return [(value, 1) for value in sorted(self._values)]
        buckets = sorted(self._sketch.buckets.items())
        return [(self._within(2 * GROWTH**bucket / (GROWTH + 1)), count) for bucket, count in buckets]

    def _within(self, value: float) -> float:
        return min(max(value, self.least), self.most)
