"""What ``sweep.html`` shows: what was swept, the verdict of each metric, charts, and the speed of the points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from launcher.core.types import Json, MetricResult
from launcher.report import charts, formatting, results, subject
from launcher.report.sweep_schema import SweepFile, SweepPoint
from launcher.report.sweep_table import Cell, Table

OPEN = 12
"""Of more metrics than this, the charts are shown on demand."""
DRAWN = 60
"""At most this many points are drawn in a chart."""
NAMED = 4
"""At most this many points, or keys, are named in a sentence."""


@dataclass(frozen=True)
class Verdict:
    """What a metric says of the points, in words; ``sure`` tells whether a difference is significant."""

    task: str
    metric: str
    sentence: str
    sure: bool


@dataclass(frozen=True)
class Bar:
    """One point of a chart: positions in percent, None where nothing is known."""

    label: str
    value: float | None
    ci: tuple[float, float] | None
    text: str
    part: str
    tip: str
    tone: str


@dataclass(frozen=True)
class Chart:
    """One metric of all points, and the ends of its axis."""

    task: str
    metric: str
    low: str
    high: str
    bars: tuple[Bar, ...]
    left_out: int
    samples: int
    """The number of samples of each point; 0 where it is not the same."""


SPEED = (
    ("requests per second", "requests_per_s"),
    ("generated tokens per second", "generated_tokens_per_s"),
    ("prompt tokens per second", "prompt_tokens_per_s"),
    ("time to first token, p50", "ttft_s"),
    ("latency, p50", "latency_s"),
)


def title(table: Table) -> str:
    """Say what was swept."""
    keys = table.overrides
    more = f" and {len(keys) - NAMED} more settings" if len(keys) > NAMED else ""
    return f"{', '.join(keys[:NAMED])}{more}" if keys else "equal points"


def models(found: SweepFile) -> str:
    """Name the models that were served; empty where none has a name of its own."""
    names = dict.fromkeys(name for point in found["points"] if (name := point.get("model")))
    return _joined([name for name in names if name not in ("none", subject.UNNAMED)])


def swept(table: Table) -> list[tuple[str, str]]:
    """Return every key that differs with its values."""
    found = {key: dict.fromkeys(chosen[key] or "-" for _, chosen, _ in table.rows) for key in table.overrides}
    return [(key, _joined(list(values), 12)) for key, values in found.items()]


def label(point: SweepPoint, chosen: Mapping[str, str]) -> str:
    """Return the settings that tell a point from the others, else its folder."""
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items() if value) or point["folder"]


def verdicts(found: SweepFile, table: Table) -> list[Verdict]:
    """Say of each metric which point is best, and how sure that is."""
    return [made for place in range(len(table.metrics)) if (made := _verdict(found, table, place)) is not None]


def _verdict(found: SweepFile, table: Table, place: int) -> Verdict | None:
    task, metric = table.metrics[place]
    every = [(label(point, chosen), row[place]) for point, chosen, row in table.rows]
    cells = [(name, cell, cell.value) for name, cell in every if cell is not None and cell.value is not None]
    if len(cells) < 2:
        return None
    sign = -1 if results.lower_is_better(found["points"], task, metric) else 1
    leader, best, value = max(cells, key=lambda each: sign * each[2])
    leaders = [name for name, _, each in cells if each == value]
    if len(leaders) > 1:
        leader = f"{_joined(leaders)} share the best value, {formatting.number(value)}"
    else:
        leader = f"{leader} has the best value, {formatting.number(value)}"
    beaten = [name for name, cell, _ in cells if cell.worse]
    others = [name for name, cell, each in cells if each != value and not cell.worse]
    number = formatting.number(value)
    if best.best:
        sentence = f"{leaders[0]} is best, {number}: significantly better than every other point."
    elif beaten:
        pronoun = "They are" if len(leaders) > 1 else "It is"
        sentence = f"{leader}. {pronoun} significantly better than {_joined(beaten)}."
        sentence += f" The difference to {_joined(others)} may be chance." if others else ""
    elif all(each == value for _, _, each in cells):
        sentence = f"All points have the same value, {number}."
    else:
        sentence = f"{leader}. No difference to it is significant: all may be chance."
    return Verdict(task, metric, sentence + _lost(cells), sure=bool(beaten or best.best))


def _lost(cells: Sequence[tuple[str, Cell, float]]) -> str:
    """Say which points have scored only a part of their samples."""
    lost = [f"{name} {cell.scored:,} of {cell.total:,}" for name, cell, _ in cells if cell.scored < cell.total]
    return f" Not all samples were scored: {_joined(lost)}." if lost else ""


def _joined(names: Sequence[str], most: int = NAMED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def drawn(table: Table) -> list[Chart]:
    """Draw every metric that has a value, with the points in their order."""
    return [chart for place in range(len(table.metrics)) if (chart := _chart(table, place)) is not None]


def _chart(table: Table, place: int) -> Chart | None:
    task, metric = table.metrics[place]
    rows = [(point, chosen, row[place]) for point, chosen, row in table.rows][:DRAWN]
    entries = {point["folder"]: results.metric_entry({**point}, task, metric) for point, _, _ in rows}
    known = {name: results.metric_result(one) for name, one in entries.items() if one and one["value"] is not None}
    if not known:
        return None
    axis = charts.curve_axes((0.0, 1.0), list(known.values()))[1]
    totals = {cell.total for _, _, cell in rows if cell}
    bars = (_bar(label(point, chosen), known.get(point["folder"]), cell, axis) for point, chosen, cell in rows)
    return Chart(
        task,
        metric,
        f"{axis.low:.4g}",
        f"{axis.high:.4g}",
        tuple(bars),
        len(table.rows) - len(rows),
        totals.pop() if len(totals) == 1 else 0,
    )


def _bar(name: str, found: MetricResult | None, cell: Cell | None, axis: charts.Axis) -> Bar:
    if found is None:
        return Bar(name, None, None, "-", "", f"{name}: no score", "")
    interval = formatting.interval(found.ci_low, found.ci_high)
    text = f"{formatting.number(found.value)} ± {formatting.number(found.stderr)}"
    lost = f"\n{cell.scored} of {cell.total} scored" if cell and cell.scored < cell.total else ""
    tone = "better" if cell and cell.best else "worse" if cell and cell.worse else ""
    ci = charts.span(axis, found.ci_low, found.ci_high)
    part = f"{cell.scored:,} of {cell.total:,} scored" if lost and cell else ""
    return Bar(name, axis.at(found.value), ci, text, part, f"{name}: {text}\n95 % {interval}{lost}", tone)


def speed(points: Iterable[SweepPoint]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the heads of the columns that have a number, and the texts of each point by its folder."""
    found = {point["folder"]: dict(_speeds(point)) for point in points}
    heads = [name for name, _ in (*SPEED, ("total time", "")) if any(name in each for each in found.values())]
    return heads, [(folder, [each.get(name, "-") for name in heads]) for folder, each in found.items()]


def _speeds(point: SweepPoint) -> Iterator[tuple[str, str]]:
    figures = point.get("throughput") or {}
    for name, key in SPEED:
        value: Json = figures.get(key)
        if isinstance(value, Mapping):
            value = value.get("p50")
            if isinstance(value, int | float):
                yield name, formatting.short_time(value)
        elif isinstance(value, int | float) and key in formatting.rates(figures):
            yield name, formatting.number(value)
    total = point["timings"].get("total")
    if isinstance(total, int | float):
        yield "total time", formatting.duration(total)
