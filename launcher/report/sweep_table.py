"""Collects the points of a sweep, and compares them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import NOT_ASKED, Json
from launcher.report import results
from launcher.report.compare import Answers, Comparison, compare_all
from launcher.report.schema import TaskEntry
from launcher.report.sweep_schema import ComparisonEntry, DeploymentEntry, SweepFile, SweepPoint

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One metric of one point. ``best``: significantly better than every other point; ``worse``: than the leader."""

    value: float | None
    stderr: float | None
    scored: int
    total: int
    not_asked: int = 0
    best: bool = False
    worse: bool = False


@dataclass(frozen=True)
class Table:
    """Points against metrics: ``overrides`` are the keys that differ, ``metrics`` pairs of task and metric."""

    overrides: list[str]
    metrics: list[tuple[str, str]]
    rows: list[tuple[SweepPoint, dict[str, str], list[Cell | None]]]
    common: list[str]


def whole_tasks(tasks: Mapping[str, TaskEntry]) -> dict[str, TaskEntry]:
    """Return the tasks that did not stop early: for the others, only a test that allows for looks is right."""
    return {name: entry for name, entry in tasks.items() if not entry.get("early_stop")}


def collect(folder: Path) -> SweepFile:
    """Return ``sweep.json`` of a multirun folder: its points, and all paired comparisons between them.

    Raises `UserError` if there is no point at all.
    """
    points = points_of(folder)
    answers = {
        point["folder"]: Answers.read(folder / point["folder"], whole_tasks(point["tasks"]))
        for point in points
        if point["tasks"]
    }
    comparisons: list[ComparisonEntry] = [results.plain(asdict(found)) for found in compare_all(answers)]
    return {
        "schema_version": SCHEMA_VERSION,
        "points": points,
        "deployments": _deployments(points),
        "comparisons": comparisons,
    }


def points_of(folder: Path) -> list[SweepPoint]:
    """Return the points of a multirun folder, in natural order.

    A point is a folder with ``.hydra/overrides.yaml``; one without a readable ``results.json`` has the status
    ``missing`` and a reason. Raises `UserError` if there is no point at all.
    """
    folders = _points(folder)
    if not folders:
        raise UserError(
            f"{folder}: no run and no sweep: no {RunFolder.results} in it, no {RunFolder.overrides} in its folders"
        )
    return [_point(path, folder) for path in folders]


def table(sweep: SweepFile) -> Table:
    """Lay out the points of ``sweep.json`` as rows, with only the overrides that differ as columns."""
    points = sweep["points"]
    chosen = [dict(_split(override) for override in point["overrides"]) for point in points]
    keys = list(dict.fromkeys(key for overrides in chosen for key in overrides))
    differing = [key for key in keys if len({overrides.get(key) for overrides in chosen}) > 1]
    metrics = _grouped(dict.fromkeys(pair for point in points for pair in _metrics(point)))
    marks = {pair: _marks(sweep, *pair) for pair in metrics}
    cells = [[_cell(point, *pair, marks[pair]) for pair in metrics] for point in points]
    shown = [{key: overrides.get(key, "") for key in differing} for overrides in chosen]
    common = [f"{key}={chosen[0][key]}" for key in keys if key not in differing]
    return Table(differing, metrics, list(zip(points, shown, cells, strict=True)), common)


def _points(folder: Path) -> list[Path]:
    """The point folders in natural order: 2 before 10."""
    found = (path.parent.parent for path in folder.rglob(str(RunFolder.overrides)))
    return sorted((path for path in found if path != folder), key=lambda path: _natural(str(path.relative_to(folder))))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _point(path: Path, folder: Path) -> SweepPoint:
    found = _results(path)
    return {
        "folder": path.relative_to(folder).as_posix(),
        "overrides": _overrides(RunFolder(path).overrides),
        "status": found["status"],
        "reason": found["reason"],
        "groups": found.get("groups") or {},
        "tasks": found.get("tasks") or {},
        "timings": found.get("timings") or {},
        "deployment": (found.get("run") or {}).get("deployment"),
        "model": (found.get("endpoint") or {}).get("model"),
        "throughput": found.get("throughput") or {},
    }


def _deployments(points: Sequence[SweepPoint]) -> list[DeploymentEntry]:
    """List the servers that were asked for: which points needed each, and how often it was brought up."""
    found: dict[str, DeploymentEntry] = {}
    for point in points:
        if point["deployment"]:
            fingerprint = point["deployment"]["fingerprint"]
            entry = found.setdefault(fingerprint, {"fingerprint": fingerprint, "starts": 0, "points": []})
            entry["points"].append(point["folder"])
            entry["starts"] += point["deployment"].get("shared") is False
    return list(found.values())


def _results(path: Path) -> dict[str, Json]:
    try:
        return dict(results.read(path))
    except UserError as error:
        return {"status": "missing", "reason": _why_missing(RunFolder(path), error)}


def _why_missing(folder: RunFolder, error: UserError) -> str:
    if folder.results.exists():
        return str(error)
    if folder.job.exists() and not folder.outcome.exists():
        return f"no {RunFolder.results} so far; for its job: launcher status {shlex.quote(str(folder.path))}"
    return f"the point ended without {RunFolder.results}"


def _overrides(path: Path) -> list[str]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return [str(item) for item in found or []]


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _metrics(point: SweepPoint) -> Iterator[tuple[str, str]]:
    for task, result in results.folded(point).items():
        for metric in result["metrics"]:
            yield task, metric


def _grouped(metrics: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep the metrics of a task together, tasks in the order of their first metric."""
    pairs = list(metrics)
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    return sorted(pairs, key=lambda pair: tasks.index(pair[0]))


def _cell(point: SweepPoint, task: str, metric: str, marks: tuple[str | None, set[str]]) -> Cell | None:
    result = results.folded(point).get(task)
    if result is None or metric not in result["metrics"]:
        return None
    entry, coverage = result["metrics"][metric], result["coverage"]
    best, worse = marks
    return Cell(
        entry["value"],
        entry["stderr"],
        coverage["scored"],
        coverage["total"],
        coverage.get(NOT_ASKED, 0),
        best=point["folder"] == best,
        worse=point["folder"] in worse,
    )


def _marks(sweep: SweepFile, task: str, metric: str) -> tuple[str | None, set[str]]:
    """Return the leader if it is significantly better than every other point, and the points it is better than."""
    values = _values_of(sweep["points"], task, metric)
    if len(values) < 2:
        return None, set()
    sign = -1 if results.lower_is_better(sweep["points"], task, metric) else 1
    leader = max(values, key=lambda name: sign * values[name])
    beaten = {
        comparison["a"] if comparison["b"] == leader else comparison["b"]
        for comparison in sweep["comparisons"]
        if (comparison["task"], comparison["metric"]) == (task, metric) and _wins(comparison, leader, sign)
    }
    return (leader if beaten == set(values) - {leader} else None), beaten


def _wins(comparison: ComparisonEntry, leader: str, sign: int) -> bool:
    """Tell whether a comparison shows, significantly, that ``leader`` is the better one of its two."""
    if leader not in (comparison["a"], comparison["b"]):
        return False
    gain = comparison["difference"] * (sign if comparison["b"] == leader else -sign)
    return Comparison(**comparison).significant and gain > 0


def _values_of(points: Sequence[SweepPoint], task: str, metric: str) -> dict[str, float]:
    entries = {point["folder"]: results.metric_entry(point, task, metric) for point in points}
    return {name: entry["value"] for name, entry in entries.items() if entry and entry["value"] is not None}
