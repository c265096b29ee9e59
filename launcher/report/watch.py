"""Writes ``watch.json`` and ``watch.html``, and prints the scores of a training run's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from launcher.checkpoints.watch_record import WatchRecord
from launcher.core.errors import UserError
from launcher.core.files import read_json, replace
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, MetricResult
from launcher.report import charts, formatting, page, results, subject, terminal
from launcher.report.compare import Answers, compare_each
from launcher.report.schema import TaskEntry
from launcher.report.sweep_schema import SettingEntry, WatchComparison, WatchFile, WatchPoint
from launcher.report.sweep_table import whole_tasks
from launcher.stats.paired import ALPHA

SCHEMA_VERSION = 1
DRAWN = ("ok", "incomplete")
"""The statuses of points that are part of a curve."""


def read(folder: Path, settings: Sequence[SettingEntry] = ()) -> list[WatchRecord]:
    """Return the records of an earlier session of a watch over the same ``settings``; empty for a new folder.

    Raises `UserError` for a file that is not ours, or of a watch over other settings.
    """
    path = RunFolder(folder).watch
    found = read_json(path)
    try:
        points = [] if found is None else found["points"]
        if points:
            _check_same(path, found.get("settings", []), list(settings))
        return [WatchRecord(**{name: point[name] for name in WatchRecord.__dataclass_fields__}) for point in points]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not what a watch has written: {error}") from None


def _check_same(path: Path, before: Sequence[SettingEntry], asked: Sequence[SettingEntry]) -> None:
    if before != asked:
        was, now = (", ".join(map(label_of, some)) or "one setting" for some in (before, asked))
        raise UserError(f"{path}: this watch evaluates {was}, and {now} is asked for; choose another folder")


def label_of(setting: SettingEntry) -> str:
    """Return what a setting is called in tables and charts."""
    return " ".join(setting["overrides"]) or setting["name"]


def report(
    folder: Path,
    training: Path,
    records: Sequence[WatchRecord],
    over: bool,
    console: Console | None = None,
    settings: Sequence[SettingEntry] = (),
) -> None:
    """Write both files and print the table. ``records`` are in order; ``over`` says that no more will come.

    ``settings`` are those of a watch over several.
    """
    found = collect(folder, training, records, settings)
    replace(RunFolder(folder).watch, results.encode(found, indent=2) + "\n")
    replace(RunFolder(folder).watch_page, page.render("watch.html.j2", values(found, folder, over)))
    if console is not None:
        terminal.print_watch(found, folder, console)


def collect(
    folder: Path, training: Path, records: Sequence[WatchRecord], settings: Sequence[SettingEntry] = ()
) -> WatchFile:
    """Return ``watch.json``: the checkpoints in order, and each against the one before and the best one before.

    With several ``settings``, a checkpoint is compared with earlier ones of the same setting.
    """
    labels = {setting["name"]: label_of(setting) for setting in settings}
    points = [_point(folder, record, labels) for record in records]
    drawn = [point for point in points if point["status"] in DRAWN]
    answers = {point["folder"]: _answers(folder / point["folder"], point["tasks"]) for point in drawn}
    compared = [found for series in series_of(drawn) for found in _against(series)]
    against = {(metric, point["folder"]): rest for metric, point, rest in compared}
    pairs = [(a, b, *metric) for (metric, b), rest in against.items() for a in dict.fromkeys(rest.values())]
    comparisons: list[WatchComparison] = [
        results.plain(asdict(found)) | {"against": _roles(against[(found.task, found.metric), found.b], found.a)}
        for found in compare_each(answers, pairs)
    ]
    head: Json = {"schema_version": SCHEMA_VERSION, "training": str(training)}
    several: Json = {"settings": list(settings)} if settings else {}
    whole: WatchFile = head | several | {"points": points, "comparisons": comparisons}
    return whole


def series_of(points: Sequence[WatchPoint]) -> list[list[WatchPoint]]:
    """Return the points of each setting, in order; one list for a watch that is not over several."""
    series: dict[str, list[WatchPoint]] = {}
    for point in points:
        series.setdefault(point.get("setting", ""), []).append(point)
    return list(series.values())


def _point(folder: Path, record: WatchRecord, labels: Mapping[str, str]) -> WatchPoint:
    values: Json = asdict(record) | {"name": record.name, "groups": {}, "tasks": {}, "timings": {}}
    if labels:
        setting = record.folder.partition("/")[2]
        values |= {"name": f"{record.name}, {labels[setting]}", "setting": setting}
    point: WatchPoint = values
    if record.status in ("evaluating", "missed"):
        return point
    if RunFolder(folder / record.folder).results.exists():  # SLURM may have refused its job
        found = results.read(folder / record.folder)
        point |= {"groups": found["groups"], "tasks": found["tasks"], "timings": found["timings"]}
        point["model"] = found["endpoint"]["model"] if found["endpoint"] else None
    return point


def _answers(run: Path, tasks: Mapping[str, TaskEntry]) -> Answers:
    """Return the answers of a run, read once for each state of its file."""
    file = RunFolder(run).samples
    key = run, file.stat().st_mtime_ns if file.exists() else 0
    if key not in _READ:
        _READ[key] = Answers.read(run, whole_tasks(tasks))
    return _READ[key]


_READ: dict[tuple[Path, int], Answers] = {}


def _against(points: Sequence[WatchPoint]) -> Iterator[tuple[tuple[str, str], WatchPoint, dict[str, str]]]:
    """Yield, for each metric and point but the first, the folders of the one before and of the best one before."""
    for metric in metrics(points):
        series = [(point, value) for point in points if (value := value_of(point, *metric)) is not None]
        for place in range(1, len(series)):
            point, before = series[place][0], series[place - 1 :: -1]  # of equal ones, the latest is the best
            best = best_of([value for _, value in before], lower=results.lower_is_better(points, *metric))
            yield metric, point, {"previous": before[0][0]["folder"], "best": before[best][0]["folder"]}


def _roles(against: Mapping[str, str], folder: str) -> list[str]:
    return [role for role, name in against.items() if name == folder]


def metrics(points: Sequence[WatchPoint]) -> list[tuple[str, str]]:
    """Return every task and metric, those of a task together."""
    tasks: dict[str, dict[str, None]] = {}
    for point in points:
        for task, result in results.folded(point).items():
            tasks.setdefault(task, {}).update(dict.fromkeys(result["metrics"]))
    return [(task, metric) for task, names in tasks.items() for metric in names]


def value_of(point: WatchPoint, task: str, metric: str) -> float | None:
    """Return the value of a point in a metric; None where it has none."""
    entry = results.metric_entry(point, task, metric)
    return entry["value"] if entry else None


def part_of(point: WatchPoint, task: str) -> str:
    """Say how many samples of a task were scored where it is not all of them; empty otherwise."""
    entry = results.folded(point).get(task)
    if entry is None:
        return ""
    scored, total = entry["coverage"]["scored"], entry["coverage"]["total"]
    return f"{scored:,} of {total:,} scored" if scored < total else ""


def best_of(values: Sequence[float], *, lower: bool) -> int:
    """Return the place of the best value, the first of equal ones; ``lower`` ones may be better."""
    return (min if lower else max)(range(len(values)), key=values.__getitem__)


def _names(points: Sequence[WatchPoint]) -> list[str]:
    """Return the names of the models, without the one that a model has that was given none."""
    return list(dict.fromkeys(name for point in points if (name := point.get("model")) and name != subject.UNNAMED))


def values(found: WatchFile, folder: Path, over: bool) -> dict[str, Json]:
    points = found["points"]
    drawn = [point for point in points if point["status"] in DRAWN]
    placed = [point for point in drawn if point["step"] is not None]
    changes = _changes(found)
    return {
        "training": found["training"],
        "heading": ", ".join(_names(points)) or Path(found["training"]).name,
        "over": over,
        "points": points,
        "metrics": metrics(drawn),
        "changes": changes,
        "value_of": value_of,
        "part_of": part_of,
        "pages": {point["folder"] for point in points if RunFolder(folder / point["folder"]).report.exists()},
        "settings": {setting["name"]: label_of(setting) for setting in found.get("settings", [])},
        "curves": [_curve(placed or drawn, bool(placed), *metric, found) for metric in metrics(placed or drawn)],
        "by_time": bool(drawn) and not placed,
        "left_out": [point["name"] for point in drawn if placed and point not in placed],
    }


def _changes(found: WatchFile) -> dict[tuple[str, str, str, str], WatchComparison]:
    """Return the comparisons by role, task, metric and folder of the later point."""
    return {
        (role, item["task"], item["metric"], item["b"]): item
        for item in found["comparisons"]
        for role in item["against"]
    }


def _curve(
    points: Sequence[WatchPoint],
    by_step: bool,
    task: str,
    metric: str,
    found: WatchFile,
) -> charts.Curve:
    changes = _changes(found)
    shown = [point for point in points if value_of(point, task, metric) is not None]
    entries = [entry for point in shown if (entry := results.metric_entry(point, task, metric)) is not None]
    values = [results.metric_result(entry) for entry in entries]
    lower = results.lower_is_better(shown, task, metric)
    places = _places(points, by_step)
    xs = [places[point["folder"]] for point in shown]
    across, up = charts.curve_axes(list(places.values()), values)
    dots = [
        charts.Dot(
            across.at(x),
            up.at(value.value),
            charts.span(up, value.ci_low, value.ci_high),
            _label(point, value, part_of(point, task)),
            tone(changes.get(("previous", task, metric, point["folder"])), lower=lower),
            f"{point['folder']}/{RunFolder.report}",
        )
        for x, value, point in zip(xs, values, shown, strict=True)
    ]
    ticks = charts.curve_ticks(across, _step if by_step else _hours)
    grid = charts.curve_ticks(up, lambda value: f"{value:.4g}")
    best = best_of([value.value for value in values], lower=lower)
    return charts.Curve(task, metric, tuple(_lines(shown, dots, dots[best], found)), ticks, grid)


def _places(points: Sequence[WatchPoint], by_step: bool) -> dict[str, float]:
    """Return where each point lies: all curves have the same axis, also where a metric lacks some of the points."""
    if by_step:
        return {point["folder"]: _step_of(point) for point in points}
    start = min(point["modified"] for point in points)
    return {point["folder"]: (point["modified"] - start) / 3600 for point in points}


def _lines(
    points: Sequence[WatchPoint], dots: Sequence[charts.Dot], best: charts.Dot, found: WatchFile
) -> Iterator[charts.Line]:
    """Yield the line of each setting that has one of these points; a watch that is not over several has one line."""
    names = [setting["name"] for setting in found.get("settings", [])]
    if not names:
        yield charts.Line("", tuple(dots), best if len(dots) > 1 else None)
        return
    for place, name in enumerate(names):
        own = [dot for point, dot in zip(points, dots, strict=True) if point.get("setting") == name]
        if own:
            told = tuple(charts.with_labels_of(dot, dots) for dot in own)
            yield charts.Line(f"series-{place % charts.TONES + 1}", told)


def _step_of(point: WatchPoint) -> float:
    assert point["step"] is not None, "a curve over steps has no point without one"
    return float(point["step"])


def _label(point: WatchPoint, value: MetricResult, part: str) -> str:
    interval = formatting.interval(value.ci_low, value.ci_high)
    return f"{point['name']}: {formatting.number(value.value)}, 95 % {interval}{', ' * bool(part)}{part}"


def _step(value: float) -> str:
    return f"{value:,.0f}"


def _hours(value: float) -> str:
    return f"{value:.4g} h"


def tone(change: WatchComparison | None, *, lower: bool) -> str:
    """Return ``better`` or ``worse`` for a significant change, nothing for one that may be chance."""
    if change is None or change["p_holm"] >= ALPHA or not change["difference"]:
        return ""
    return "worse" if (change["difference"] < 0) != lower else "better"
