"""What a metric is: its direction and range, and how the values of samples become one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from launcher.core.types import Aggregation, Direction, Interval, Json, MetricResult
from launcher.stats.clusters import Clusters
from launcher.stats.intervals import UNKNOWN, Uncertainty, bootstrap, of_mean
from launcher.stats.resampling import Statistic

Values = Sequence[tuple[str, Json]]
"""One or more pairs of an item's id and the value of one of its samples."""

ROUNDING = 1e-9
"""A value may miss its range by this, relative to itself: an F1 of 1.0000000000000002 is one of 1."""


@dataclass(frozen=True)
class Metric:
    """A metric that a task declares.

    ``range`` bounds the value of a sample and of the result, None at an end without a bound. ``combine`` makes one
    number of the values of an item's repeats (``Aggregation.items``, for instance pass@k), or of all samples
    (``Aggregation.corpus``, for instance perplexity). It may raise an error for values that have no result. For an
    item it may return None: the metric leaves the item out, for instance one with too few samples for pass@k.
    ``interval=Interval.none`` says that no interval is known; None takes the right one. A
    ``combine`` that is a `Statistic` with sums has a fast bootstrap.
    """

    name: str
    direction: Direction = Direction.higher
    range: tuple[float | None, float | None] = (0.0, 1.0)
    aggregation: Aggregation = Aggregation.mean
    combine: Callable[[Sequence[Json]], float | None] | None = None
    interval: Interval | None = None

    def __post_init__(self) -> None:
        if (self.combine is None) is not (self.aggregation is Aggregation.mean):
            raise ValueError(f"metric {self.name}: combine is for aggregation=items and corpus, which need it")
        if self.interval not in (None, Interval.none):
            raise ValueError(f"metric {self.name}: interval is {self.interval}, expected None or Interval.none")
        low, high = self.range
        if low is not None and high is not None and not low < high:
            raise ValueError(f"metric {self.name}: range is {self.range}, expected (low, high) with low < high")
        object.__setattr__(self, "range", (low, high))

    def fault(self, value: Json) -> str | None:
        """Return what is wrong with the value of one sample, None if it can be aggregated."""
        return self._number_fault(value) if self.aggregation is Aggregation.mean else None

    def _number_fault(self, value: Json) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{self.name} is {value!r}, expected a finite number"
        low, high = self.range
        slack = ROUNDING * max(1.0, abs(value))
        if (low is not None and value < low - slack) or (high is not None and value > high + slack):
            return f"{self.name} is {value!r}, outside of its range {self.described_range}"
        return None

    def _combined(self, values: Sequence[Json]) -> float:
        """Return what ``combine`` makes of the values. Raises `ValueError` if that is no number in the range."""
        assert self.combine is not None
        return self._number(self.combine(values))

    def _number(self, value: Json) -> float:
        number = float(value) if isinstance(value, SupportsFloat) else value
        fault = self._number_fault(number)
        if fault is not None:
            raise ValueError(fault)
        return float(number)

    @property
    def function(self) -> str | None:
        """The name of ``combine``, ``module:name``; None for a mean, and for a function without one of its own."""
        if self.aggregation is Aggregation.mean:
            return None
        function = self.combine.function if isinstance(self.combine, Statistic) else self.combine
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        return f"{module}:{name}" if module and name and "<" not in name else None

    @property
    def described_range(self) -> str:
        low, high = ("unbounded" if end is None else f"{end:g}" for end in self.range)
        return f"[{low}, {high}]"

    def result(self, values: Values, total: int) -> MetricResult:
        """Return the number that ``values`` give, out of ``total`` samples. Raises what ``combine`` does."""
        clusters = Clusters.of(values)
        if self.aggregation is Aggregation.corpus:
            return self._of_corpus(clusters, [value for _, value in values], total)
        return self.of(clusters, total)

    def of(self, clusters: Clusters, total: int) -> MetricResult:
        """Return the number that the values of items give, out of ``total`` samples. Raises what ``combine`` does."""
        if self.aggregation is Aggregation.corpus:
            return self._of_corpus(clusters, list(clusters.flat), total)
        n = clusters.count
        if self.aggregation is Aggregation.items:
            clusters, n = self._of_items(clusters)
        mean = math.fsum(clusters.flat) / clusters.count
        found = UNKNOWN if self.interval is Interval.none else of_mean(clusters, mean, self.range)
        return self._made(mean, found, n, self._bounds(mean, n, total))

    def _of_items(self, clusters: Clusters) -> tuple[Clusters, int]:
        """Return the value of each item that has one, and the number of samples in them."""
        assert self.combine is not None
        made, n = Clusters(), 0
        for found in clusters.values():
            value: Json = self.combine(list(found))
            if value is not None:
                made.add(self._number(value), new_item=True)
                n += len(found)
        if not made.count:
            raise ValueError(f"no item has enough samples for {self.name}")
        return made, n

    def _of_corpus(self, clusters: Clusters, values: Sequence[Json], total: int) -> MetricResult:
        value = self._combined(values)
        sums = self.combine.sums if isinstance(self.combine, Statistic) else None
        found = UNKNOWN if self.interval is Interval.none else bootstrap(clusters, Statistic(self._combined, sums))
        return self._made(value, found, clusters.count, self._bounds(value, clusters.count, total))

    def _bounds(self, value: float, n: int, total: int) -> tuple[float, float]:
        """Return the value if every sample that was not scored had the least value, and the greatest."""
        if n == total:
            return value, value
        if self.aggregation is not Aggregation.mean:
            return math.nan, math.nan
        low, high = (math.nan if end is None else (value * n + (total - n) * end) / total for end in self.range)
        return low, high

    def _made(self, value: float, found: Uncertainty, n: int, bounds: tuple[float, float]) -> MetricResult:
        return MetricResult(
            value, found.stderr, found.low, found.high, n, *bounds,
            self.direction, found.interval, self.aggregation, self.range, self.function,
        )  # fmt: skip
