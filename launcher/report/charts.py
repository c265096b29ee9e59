"""Computes the positions of the marks in the report's charts, which the templates draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from launcher.core.types import Direction, MetricResult, TaskResult
from launcher.report.formatting import bounded, duration, number, plural
from launcher.stats.distribution import Distribution

BINS = 40
TONES = 8
"""How many colours of lines style.css has; later lines repeat them."""
FEWEST_TICKS = 3
"""An axis with fewer ticks is read only at one place or two, so that it gets more of them."""


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high``; positions are percent of its length, logarithmic if ``log``."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of ``value``, clipped to the axis."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, self._clip(value)))
        return round(100 * (value - low) / (high - low), 3)

    def value(self, share: float) -> float:
        """Return the value at ``share`` (0 to 1) of the length."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + (self.high - self.low) * share

    def _clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class ScoreRow:
    """One metric on its axis; the positions are None where the number is not known."""

    task: str
    metric: str
    result: MetricResult
    axis: Axis
    value: float | None
    ci: tuple[float, float] | None
    bounds: tuple[float, float] | None

    @property
    def lower_is_better(self) -> bool:
        return self.result.direction is Direction.lower

    @property
    def unusual(self) -> bool:
        """Whether the axis is another than 0 to 1 and needs its ends written."""
        return (self.axis.low, self.axis.high) != (0.0, 1.0)


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram: position and width in percent, height as a share of the highest."""

    x: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A tick or a percentile with its position in percent."""

    x: float
    label: str

    @property
    def anchor(self) -> str:
        """The text-anchor that keeps the label inside the chart."""
        return "start" if self.x < 8 else "end" if self.x > 88 else "middle"


@dataclass(frozen=True)
class Histogram:
    """A latency distribution, ready to draw."""

    axis: Axis
    bins: tuple[Bin, ...]
    ticks: tuple[Mark, ...]
    percentiles: tuple[Mark, ...]
    count: int


def score_rows(tasks: dict[str, TaskResult]) -> list[ScoreRow]:
    """Place every metric of every task on an axis of its own, 0 to 1 where that holds it."""
    return [_score_row(task, name, metric) for task, result in tasks.items() for name, metric in result.metrics.items()]


def _score_row(task: str, name: str, metric: MetricResult) -> ScoreRow:
    axis = _axis(metric)
    value = axis.at(metric.value) if math.isfinite(metric.value) else None
    ci = span(axis, metric.ci_low, metric.ci_high) if metric.n else None
    bounds = span(axis, metric.low, metric.high) if bounded(metric) else None
    return ScoreRow(task, name, metric, axis, value, ci, bounds)


def span(axis: Axis, low: float, high: float) -> tuple[float, float] | None:
    """Return where an interval lies; None if an end of it is not known."""
    return (axis.at(low), axis.at(high)) if math.isfinite(low) and math.isfinite(high) else None


def _axis(metric: MetricResult) -> Axis:
    """0 to 1 if value and bounds lie there (a confidence interval that sticks out is clipped), else what holds all."""
    inner = [x for x in (metric.value, metric.low, metric.high) if math.isfinite(x)]
    if all(0 <= x <= 1 for x in inner):
        return Axis(0.0, 1.0)
    every = [*inner, *(x for x in (metric.ci_low, metric.ci_high) if math.isfinite(x))]
    step = _nice(max(every) - min(0.0, *every))
    return Axis(math.floor(min(0.0, *every) / step) * step, math.ceil(max(0.0, *every) / step) * step)


def _nice(span: float, parts: int = 4) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that divides ``span`` into about ``parts``."""
    rough = span / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def histogram(latencies: Distribution) -> Histogram | None:
    """Lay out the distribution of ``latencies`` (seconds); None if there are none."""
    if not latencies.count:
        return None
    shares = 0.5, 0.9, 0.99
    found = latencies.quantiles(shares)
    axis = _latency_axis(latencies.least, found[0], latencies.most)
    marks = tuple(_mark(axis, f"p{round(share * 100)}", value) for share, value in zip(shares, found, strict=True))
    return Histogram(axis, tuple(_bins(latencies, axis)), tuple(_ticks(axis)), marks, latencies.count)


def _mark(axis: Axis, name: str, seconds: float) -> Mark:
    return Mark(axis.at(seconds), f"{name} {duration(seconds)}")


def _latency_axis(low: float, median: float, high: float) -> Axis:
    """A logarithmic axis if the slowest took more than ten times the median, which would squeeze the rest."""
    if low > 0 and high > 10 * median:
        return Axis(low / 1.05, high * 1.05, log=True)
    margin = (high - low) * 0.02 or max(high * 0.1, 1e-3)
    return Axis(max(0.0, low - margin), high + margin)


def _bins(latencies: Distribution, axis: Axis) -> Iterator[Bin]:
    counts = [0] * BINS
    for seconds, times in latencies.weights():
        counts[min(BINS - 1, int(axis.at(seconds) / 100 * BINS))] += times
    width = 100 / BINS
    for place, count in enumerate(counts):
        if count:
            ends = (duration(axis.value((place + side) / BINS)) for side in (0, 1))
            yield Bin(place * width, width, count / max(counts), f"{' to '.join(ends)}: {plural(count, 'sample')}")


def _ticks(axis: Axis) -> Iterator[Mark]:
    values = list(_log_steps(axis) if axis.log else _linear_steps(axis))
    yield from (Mark(axis.at(value), duration(value)) for value in values if axis.low <= value <= axis.high)


def _linear_steps(axis: Axis) -> Iterator[float]:
    for parts in (4, 8, 16):
        step = _nice(axis.high - axis.low, parts)
        steps = range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)
        if len(steps) >= FEWEST_TICKS:
            break
    yield from (step * count for count in steps)


def _log_steps(axis: Axis) -> Iterator[float]:
    """Powers of ten, with 2 and 5 between them while that makes at most six."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        steps = [factor * 10.0**power for power in powers for factor in factors]
        if sum(axis.low <= step <= axis.high for step in steps) <= 6:
            break
    yield from steps


@dataclass(frozen=True)
class Dot:
    """One point of a curve: positions in percent, ``y`` and the ends of its interval from the bottom."""

    x: float
    y: float
    ci: tuple[float, float] | None
    label: str
    tone: str = ""
    href: str | None = None


def with_labels_of(dot: Dot, dots: Sequence[Dot]) -> Dot:
    """Return a dot whose label also tells of the ``dots`` that it is drawn over."""
    covered = [other.label for other in dots if (other.x, other.y) == (dot.x, dot.y) and other != dot]
    told = f"{dot.label}, significantly {dot.tone} than the checkpoint before" if dot.tone else dot.label
    return replace(dot, label="; ".join([told, *covered]))


@dataclass(frozen=True)
class Line:
    """The dots of one setting; ``tone`` is its colour's class, empty for the only line. ``best`` is marked."""

    tone: str
    dots: tuple[Dot, ...]
    best: Dot | None = None


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of a training run, ready to draw: a line for each setting."""

    task: str
    metric: str
    lines: tuple[Line, ...]
    ticks: tuple[Mark, ...]
    grid: tuple[Mark, ...]

    @property
    def dots(self) -> tuple[Dot, ...]:
        """The dots of all lines."""
        return tuple(dot for line in self.lines for dot in line.dots)


def curve_axes(xs: Sequence[float], metrics: Sequence[MetricResult]) -> tuple[Axis, Axis]:
    """Return the axes that hold all points of a curve, and their intervals as far as the metric's range goes."""
    ends = [x for metric in metrics for x in (metric.ci_low, metric.value, metric.ci_high) if math.isfinite(x)]
    step = _nice((max(ends) - min(ends)) or 0.1)
    low, high = math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step
    if all(0 <= metric.value <= 1 for metric in metrics):
        low, high = max(0.0, low), min(1.0, high)
    if low == high:
        low, high = (low - step, high) if low else (low, high + step)
    margin = (max(xs) - min(xs)) * 0.03 or 1.0
    return Axis(min(xs) - margin, max(xs) + margin), Axis(low, high)


def curve_ticks(axis: Axis, write: Callable[[float], str]) -> tuple[Mark, ...]:
    """Return the ticks of an axis of a curve."""
    return tuple(Mark(axis.at(value), write(value)) for value in _linear_steps(axis))


def describe(row: ScoreRow) -> str:
    """Say in words what a score's bar shows, for those who cannot see it."""
    result = row.result
    said = f"{row.task} {row.metric}: {number(result.value)}"
    if row.ci:
        said += f", 95 % confidence {number(result.ci_low)} to {number(result.ci_high)}"
    if row.bounds:
        said += f", possible {number(result.low)} to {number(result.high)}"
    return said
