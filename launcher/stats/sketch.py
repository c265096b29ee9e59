"""Counts values in buckets of growing width, for quantiles of a known relative error in little memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = 1.02
"""A bucket's upper end over its lower one: a quantile is off by at most 1 %."""
LEAST = 1e-6
"""Smaller values are counted as this."""


class Sketch:
    """The distribution of values above zero, as DDSketch keeps it (Masson, Rim and Lee, VLDB 2019).

    `quantile` is within 1 % of a value that has the rank. Sketches of parts are merged by adding their counts, so
    that ``buckets`` may be stored and read again.
    """

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def add(self, value: float) -> None:
        self.buckets[math.ceil(math.log(max(value, LEAST), GROWTH))] += 1

    @property
    def count(self) -> int:
        return self.buckets.total()

    def quantile(self, share: float) -> float | None:
        """Return the least value that is not below this share of all values (the nearest rank); None without values."""
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return 2 * GROWTH**bucket / (GROWTH + 1)
        return None
