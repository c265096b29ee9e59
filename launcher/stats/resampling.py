"""How a number of all samples varies, and how two of them differ: units are drawn again, or swapped between runs.

A unit is an item with its repeats, or all items that share a passage. Draws have a fixed seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.core.types import Json
from launcher.stats.clusters import Clusters
from launcher.stats.distributions import normal_below, t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

RESAMPLES = 1000
PAIRED = 2000
"""Resamples of two runs whose number is made of sums."""
WORK = 2_000_000
"""Values that all resamples of one number may draw; large tasks get fewer resamples, at least `FEWEST`."""
WORK_OF_SUMS = 50_000_000
"""Units that all resamples of a number that is made of sums may draw."""
FEWEST = 100
CHUNK = 500_000
"""So many units are drawn at once."""


@dataclass(frozen=True)
class Sums:
    """How a number is made of sums over samples, so that a resample costs no second look at them.

    ``rows`` returns what each value adds, one row for each; None if these values have no such sums. ``value`` returns
    the number of each row of sums: that of all values is what the function of the `Statistic` makes of them.
    """

    rows: Callable[[Sequence[Json]], Sequence[Sequence[float]] | Floats | None]
    value: Callable[[Floats], Sequence[float] | Floats]


@dataclass(frozen=True)
class Statistic:
    """A function that makes one number of all samples, such as a perplexity or a BLEU score."""

    function: Callable[[Sequence[Json]], Any]
    sums: Sums | None = None

    def __call__(self, values: Sequence[Json]) -> Any:
        return self.function(values)


def made_of(sums: Sums) -> Callable[[Callable[[Sequence[Json]], float]], Statistic]:
    """Return a decorator for a function whose number is made of sums."""
    return lambda function: Statistic(function, sums)


@dataclass(frozen=True)
class PairedResamples:
    """The difference ``b - a`` of two numbers over the same units.

    The interval is that of percentiles, widened for few units (Hesterberg 2015). ``p`` is that of approximate
    randomization (Noreen 1989): how often the difference is as large if each unit's values are swapped by chance. It
    is exact for models that answer each unit alike.
    """

    stderr: float
    low: float
    high: float
    p: float


def resamples(statistic: Statistic, sides: Sequence[Clusters], most: int = RESAMPLES) -> Floats | None:
    """Return the number of each resample, a row for each of ``sides``, of which all draw the same units.

    None where there are fewer than two units, or a resample has no finite number.
    """
    import numpy as np

    if len(sides[0]) < 2:
        return None
    try:
        sums = _sums(statistic, sides)
        found = _of_sums(statistic, sums, most) if sums is not None else _of_values(statistic, sides)
    except Exception:  # the code of a task
        return None
    return found if np.isfinite(found).all() else None


def _sums(statistic: Statistic, sides: Sequence[Clusters]) -> list[Floats] | None:
    """Return for each side a row of sums for each unit; None where the number is not made of sums."""
    import numpy as np

    if statistic.sums is None:
        return None
    rows = [statistic.sums.rows(side.flat) for side in sides]
    if any(each is None for each in rows):
        return None
    return [np.add.reduceat(np.asarray(each, float), side.starts(), 0) for each, side in zip(rows, sides, strict=True)]


def _of_sums(statistic: Statistic, sums: Sequence[Floats], most: int) -> Floats:
    import numpy as np

    units = len(sums[0])
    found = [[_values(statistic, counts @ each) for each in sums] for counts in _counts(units, _times(units, most))]
    return np.concatenate(found, axis=1)


def _values(statistic: Statistic, sums: Floats) -> Floats:
    import numpy as np

    assert statistic.sums is not None
    return np.asarray(statistic.sums.value(sums), float)


def _times(units: int, most: int) -> int:
    return max(FEWEST, min(most, WORK_OF_SUMS // units))


def _counts(units: int, times: int) -> Iterator[Floats]:
    """Yield how often each resample draws each unit, some resamples at a time."""
    import numpy as np

    draw = np.random.default_rng(0)
    for rows in _chunks(units, times):
        drawn = draw.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def _chunks(units: int, times: int) -> Iterator[int]:
    """Yield how many resamples are made at once."""
    each = max(1, CHUNK // units)
    return (min(each, times - start) for start in range(0, times, each))


def _of_values(statistic: Statistic, sides: Sequence[Clusters]) -> Floats:
    import numpy as np

    units, pickers, draw = range(len(sides[0])), [side.picker() for side in sides], random.Random(0)
    drawn = (draw.choices(units, k=len(units)) for _ in range(_times_of_values(sides)))
    return np.array([[statistic(picked(each)) for picked in pickers] for each in drawn], float).T


def _times_of_values(sides: Sequence[Clusters]) -> int:
    return max(FEWEST, min(RESAMPLES, WORK // sum(side.count for side in sides)))


def swaps(statistic: Statistic, a: Clusters, b: Clusters) -> Floats | None:
    """Return the difference after each of many swaps of units between two runs; None where one is not finite."""
    import numpy as np

    try:
        sums = _sums(statistic, (a, b))
        found = _swaps_of_sums(statistic, *sums) if sums is not None else _swaps_of_values(statistic, a, b)
    except Exception:  # the code of a task
        return None
    return found if np.isfinite(found).all() else None


def _swaps_of_sums(statistic: Statistic, a: Floats, b: Floats) -> Floats:
    import numpy as np

    units, found, draw = len(a), [], np.random.default_rng(1)
    for rows in _chunks(units, _times(units, PAIRED)):
        moved = draw.integers(0, 2, (rows, units)).astype(float) @ (b - a)
        found.append(_values(statistic, b.sum(axis=0) - moved) - _values(statistic, a.sum(axis=0) + moved))
    return np.concatenate(found)


def _swaps_of_values(statistic: Statistic, a: Clusters, b: Clusters) -> Floats:
    import numpy as np

    pairs, draw, found = list(zip(a.values(), b.values(), strict=True)), random.Random(1), []
    for _ in range(_times_of_values((a, b))):
        kept = [pair if draw.random() < 0.5 else pair[::-1] for pair in pairs]
        ends = [statistic([value for pair in kept for value in pair[side]]) for side in (0, 1)]
        found.append([float(end) for end in ends if end is not None])
    ends_a, ends_b = np.array(found, float).T
    difference: Floats = ends_b - ends_a
    return difference


def _number(statistic: Statistic, side: Clusters) -> float:
    found = statistic(list(side.flat))
    if found is None or not math.isfinite(found):
        raise ValueError(f"its number is {found}")
    return float(found)


def paired(statistic: Statistic, a: Clusters, b: Clusters) -> tuple[tuple[float, float], PairedResamples | None]:
    """Return the numbers of two runs over the same units in the same order, and how sure their difference is.

    The latter is None where `resamples` or `swaps` is. Raises what the statistic does for the values themselves, and
    `ValueError` where it gives no finite number.
    """
    values = _number(statistic, a), _number(statistic, b)
    drawn, swapped = resamples(statistic, (a, b), PAIRED), swaps(statistic, a, b)
    if drawn is None or swapped is None:
        return values, None
    return values, _told(values, drawn[1] - drawn[0], swapped, len(a))


def _told(values: tuple[float, float], drawn: Floats, swapped: Floats, units: int) -> PairedResamples:
    import numpy as np

    difference, slack = values[1] - values[0], 1e-9 * max(1.0, *map(abs, values))
    beyond = int(np.sum(np.abs(swapped) >= abs(difference) - slack))
    stderr = float(np.std(drawn, ddof=1))
    tail = normal_below(-math.sqrt(units / (units - 1)) * t_quantile(0.05, units - 1))
    low, high = map(float, np.quantile(drawn, (tail, 1 - tail)))
    return PairedResamples(0.0 if stderr <= slack else stderr, low, high, (1 + beyond) / (1 + len(swapped)))
