"""The curves of load tests: throughput and time to the first token over the number of requests in flight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from launcher.report import formatting
from launcher.report.charts import Axis, Mark
from launcher.report.schema import LevelEntry, LoadEntry


@dataclass(frozen=True)
class Point:
    """A point of a curve: positions in percent, ``y`` from the bottom."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """The curve of one server; ``tone`` chooses its colour."""

    name: str
    tone: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Plot:
    """Curves over the number in flight, ready to draw."""

    title: str
    lines: tuple[Line, ...]
    ticks: tuple[Mark, ...]
    grid: tuple[Mark, ...]

    @property
    def description(self) -> str:
        """Say in words what is drawn, for those who cannot see it."""
        return "; ".join(f"{line.name} {point.label}" for line in self.lines for point in line.points)


Value = Callable[[LevelEntry], float | None]


def curves(loads: Mapping[str, LoadEntry]) -> list[Plot]:
    """Return the curves of servers by name: tokens per second, and the median time to the first token."""
    rate = _plot("Generated tokens per second", loads, lambda level: level["generated_tokens_per_s"], formatting.number)
    first = _plot("Time to the first token, median", loads, lambda level: level["ttft_s"]["p50"], formatting.duration)
    return [plot for plot in (rate, first) if plot is not None]


def _plot(title: str, loads: Mapping[str, LoadEntry], value: Value, write: Callable[[float], str]) -> Plot | None:
    found = {name: [(level["in_flight"], value(level)) for level in load["levels"]] for name, load in loads.items()}
    known = {name: [(x, y) for x, y in points if y] for name, points in found.items()}
    every = [point for points in known.values() for point in points]
    if len(every) < 2:
        return None
    counts = sorted({x for x, _ in every})
    across = Axis(min(counts) / 1.3, max(counts) * 1.3, log=True)
    up = _decades([y for _, y in every])
    lines = tuple(
        Line(name, tone, tuple(_point(across, up, x, y, write) for x, y in points))
        for tone, (name, points) in enumerate(known.items())
    )
    return Plot(title, lines, tuple(Mark(across.at(x), str(x)) for x in counts), tuple(_grid(up, write)))


def _point(across: Axis, up: Axis, x: int, y: float, write: Callable[[float], str]) -> Point:
    return Point(across.at(x), up.at(y), f"{write(y)} at {x} in flight")


def _decades(values: Sequence[float]) -> Axis:
    """Return a logarithmic axis from a round number to a round number."""
    low, high = _round(min(values), up=False), _round(max(values), up=True)
    return Axis(low, high if high > low else 2 * low, log=True)


def _round(value: float, *, up: bool) -> float:
    """Return the next 1, 2 or 5 times a power of ten, above or below."""
    power = math.floor(math.log10(value))
    steps = [factor * 10.0**exponent for exponent in (power, power + 1) for factor in (1, 2, 5)]
    if up:
        return min(step for step in steps if step >= value * 0.999999)
    return max(step for step in steps if step <= value * 1.000001)


def _grid(up: Axis, write: Callable[[float], str]) -> Iterator[Mark]:
    """Yield powers of ten, with 2 and 5 between them while that makes few lines."""
    first, last = math.floor(math.log10(up.low)), math.ceil(math.log10(up.high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        steps = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        inside = [step for step in steps if up.low * 0.999 <= step <= up.high * 1.001]
        if len(inside) <= 7:
            break
    yield from (Mark(up.at(step), write(step)) for step in inside)
