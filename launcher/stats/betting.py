"""Confidence sequences and tests that may be looked at any time, of values that are drawn without replacement.

The method bets against each candidate mean: Waudby-Smith and Ramdas, "Confidence sequences for sampling without
replacement" (2020) and "Estimating means of bounded random variables by betting" (2023). The capital that bets make
reaches ``1 / alpha`` with a probability of at most ``alpha`` where the candidate is the true mean (Ville's inequality).
So a candidate that is beaten is excluded, whenever one looks.

What is drawn is a unit: a question, or all questions that share a passage. A unit's value is the sum of its questions
over that of the largest unit. To a smaller one, the candidate is added for each question that it lacks. So the mean of
all units is the candidate exactly where the mean of all questions is. The more a candidate is, the less it gains.

Units come in blocks, over which those of each category are spread evenly (`launcher.evaluate.random_order`). Within a
block, candidate and bets stay the same, and one looks at its end. Values of several categories have several
expectations. By the inequality of arithmetic and geometric means, the expected product of ``1 + bet * (value -
candidate)`` is at most that of equal expectations. So a block is a fair bet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

ALPHA = 0.05
"""A confidence sequence of 95 % is wrong, at any time, with at most this probability."""
BETS = 12
"""So many bets share the capital at the start, the more the smaller they are."""
BOLDEST = 0.9
"""The largest share of its capital that a bet stakes."""
LEAST = 4
"""The least share that a bet stakes, times the root of the number of values."""
CANDIDATES = 1000
"""The interval of candidate means has so many steps; what lies beyond an excluded one is excluded."""
TINY = 1e-12

Bounds = Sequence[tuple[float, float]]
"""For each value of a block the least and the greatest that it may be: equal ones, where it is known."""
Sizes = Sequence[int] | None
"""How many values in a row make each unit of a block; None where each stands alone."""


def bets(total: int) -> Floats:
    """Return the shares of the capital that bets stake, in a population of ``total`` values.

    The least one suits a difference that shows only when half of the values or more are known.
    """
    import numpy as np

    return np.geomspace(min(0.3, LEAST / math.sqrt(total)), BOLDEST, BETS)


def shares(stakes: Floats) -> Floats:
    """Return the logarithm of the share of the capital that each bet has at the start.

    Bold bets decide large differences soon with little. Small ones are for those that need many questions.
    """
    import numpy as np

    logarithms: Floats = -np.log(stakes) - np.log((1 / stakes).sum())
    return logarithms


def counted(values: Sequence[float]) -> tuple[Floats, Floats]:
    """Return the distinct values, and how often each of them is there."""
    import numpy as np

    distinct, counts = np.unique(np.asarray(values, float), return_counts=True)
    return distinct, counts


def summed(values: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return the sum of each unit's values."""
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] != len(values):
        raise ValueError(f"{len(values)} values for units of {ends[-1]}")
    return [math.fsum(values[start:end]) for start, end in pairwise(ends)]


class Beaten:
    """Tells which of the candidates ``means`` are too low for the mean of ``total`` values from 0 to 1.

    A leading dimension of the counts stands for as many populations, each with bets of its own.
    """

    def __init__(self, total: int, alpha: float, means: Floats) -> None:
        self._total, self._needed, self._means = total, math.log(1 / alpha), means
        self._stakes = bets(total)
        self._capital = shares(self._stakes)
        self._sum: Any = 0.0
        self._short: Any = 0.0
        self._count: Any = 0

    def add(self, values: Floats, counts: Floats, short: Floats | None = None) -> Floats:
        """Take the next block; tell for each candidate whether it is beaten now.

        ``short`` says which share of the largest unit each value lacks; the candidate stands in for it.
        """
        import numpy as np

        lacking = np.zeros(len(values)) if short is None else short
        padded = values if short is None else values + self._means[:, None] * short
        left = np.asarray(self._total - self._count)[..., None]
        rest = self._left() / np.maximum(left, 1)
        odds = (padded / np.clip(rest, TINY, 1.0)[..., None] - 1)[..., None]
        won = counts[..., None, :, None] * np.log1p(self._stakes * odds)
        self._capital = self._capital + won.sum(axis=-2)
        self._sum, self._short = self._sum + counts @ values, self._short + counts @ lacking
        self._count = self._count + counts.sum(axis=-1)
        beaten: Floats = (np.logaddexp.reduce(self._capital, axis=-1) >= self._needed) | (self._left() < -TINY)
        return beaten

    def _left(self) -> Floats:
        """Return for each candidate what the units that are not drawn yet must sum up to."""
        import numpy as np

        known = self._means * (self._total - np.asarray(self._short)[..., None])
        left: Floats = known - np.asarray(self._sum)[..., None]
        return left


class LowerBound:
    """A lower confidence bound of the mean of ``total`` values from 0 to 1, for all looks together.

    They are drawn as ``units``, of which the ``largest`` has so many.
    """

    def __init__(self, total: int, alpha: float, units: int | None = None, largest: int = 1) -> None:
        import numpy as np

        self._total, self._largest, self._means = total, largest, np.linspace(0.0, 1.0, CANDIDATES + 1)
        self._beaten, self._sum = Beaten(total if units is None else units, alpha, self._means), 0.0
        self.bound = 0.0

    def add(self, values: Sequence[float], sizes: Sizes = None) -> None:
        """Take the next block."""
        import numpy as np

        if not values:
            return
        places = np.flatnonzero(self._take(values, sizes))
        self._sum += math.fsum(values)
        reached = float(self._means[places[-1]]) if len(places) else 0.0
        self.bound = max(self.bound, reached, min(1.0, self._sum / self._total))

    def _take(self, values: Sequence[float], sizes: Sizes) -> Floats:
        import numpy as np

        if self._largest == 1:
            return self._beaten.add(*counted(values))
        counts = [1] * len(values) if sizes is None else sizes
        rows = np.column_stack([summed(values, counts), counts]) / self._largest
        distinct, times = np.unique(rows, axis=0, return_counts=True)
        return self._beaten.add(distinct[:, 0], times, 1 - distinct[:, 1])


class ConfidenceSequence:
    """An interval for the mean of ``total`` values from ``least`` to ``greatest``, valid at all looks together.

    A value that is not known counts, for each end, where it widens the interval. The values are drawn as ``units``, of
    which the ``largest`` has so many.
    """

    def __init__(
        self,
        total: int,
        least: float,
        greatest: float,
        alpha: float = ALPHA,
        *,
        units: int | None = None,
        largest: int = 1,
    ) -> None:
        self._least, self._span = least, greatest - least
        self._below, self._above = (LowerBound(total, alpha / 2, units, largest) for _ in range(2))

    def add(self, block: Bounds, sizes: Sizes = None) -> None:
        """Take the next block."""
        self._below.add([self._scaled(low) for low, _ in block], sizes)
        self._above.add([1 - self._scaled(high) for _, high in block], sizes)

    def _scaled(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self._least) / self._span))

    @property
    def low(self) -> float:
        return self._least + self._span * self._below.bound

    @property
    def high(self) -> float:
        return self._least + self._span * (1 - self._above.bound)

    @property
    def width(self) -> float:
        return max(0.0, self.high - self.low)


class EqualityTest:
    """Tests at any time whether differences, from ``-span`` to ``span``, have the expectation 0.

    It speaks of questions of this kind, as a paired test does, and not only of those in the population. So equal models
    stay undecided also when all questions are asked. ``p`` is valid at all looks together. The differences are drawn
    as ``total`` units, of which the ``largest`` has so many.
    """

    def __init__(self, total: int, span: float, largest: int = 1) -> None:
        self._span, self._stakes = span * largest, bets(total)
        self._gain = self._loss = shares(self._stakes) - math.log(2)
        self.p: Any = 1.0

    def add(self, block: Bounds, sizes: Sizes = None) -> None:
        """Take the next block."""
        ends = ([low for low, _ in block], [high for _, high in block])
        if block:
            low, high = (counted(each if sizes is None else summed(each, sizes)) for each in ends)
            self.take(low, high)

    def take(self, low: tuple[Floats, Floats], high: tuple[Floats, Floats]) -> None:
        """Take the next block as distinct values with their counts; a leading dimension stands for several tests."""
        import numpy as np

        self._gain = self._gain + low[1] @ np.log1p(low[0][:, None] * self._stakes / self._span)
        self._loss = self._loss + high[1] @ np.log1p(-high[0][:, None] * self._stakes / self._span)
        capital = np.logaddexp.reduce(np.concatenate([self._gain, self._loss], axis=-1), axis=-1)
        self.p = np.minimum(self.p, np.exp(-np.maximum(0.0, capital)))
