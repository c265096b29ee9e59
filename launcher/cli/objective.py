"""What a sweeper is told of a point: the number, or the numbers, that it chooses the next points by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.report import results

Value = float | list[float] | None


def value(folder: Path, objective: Json) -> Value:
    """Return the value of the run in ``folder``: that of ``objective``, ``<task>.<metric>``, or of each of a list.

    Without one (None) it is the mean over the tasks of each task's first metric; a group of tasks counts as one. None
    for a run whose status is not ``ok``, and where nothing was scored: it has no value. Raises `UserError` for a metric
    that the run does not have, and for tasks that have no common mean because less of one metric and more of another
    is better.
    """
    try:
        found = results.read(folder)
    except UserError:
        return None
    if found["status"] != "ok":
        return None
    metrics = {name: entry["metrics"] for name, entry in {**found["groups"], **found["tasks"]}.items()}
    if objective is None:
        return _mean({name: metrics[name] for name in results.folded(found)})
    if isinstance(objective, str):
        return _value(objective, metrics)
    values = [value for name in objective if (value := _value(name, metrics)) is not None]
    return values if len(values) == len(objective) else None


def _value(name: str, metrics: Mapping[str, Json]) -> float | None:
    task, _, metric = name.rpartition(".")
    if not metrics.get(task):  # nothing of it was scored
        return None
    if metric not in metrics[task]:
        raise UserError(f"objective={name}: the points have no such metric; accepted are {', '.join(_names(metrics))}")
    return float(metrics[task][metric]["value"])


def _names(metrics: Mapping[str, Json]) -> list[str]:
    return [f"{task}.{metric}" for task, found in metrics.items() for metric in found]


def _mean(metrics: Mapping[str, Json]) -> float | None:
    first = {task: next(iter(found)) for task, found in metrics.items() if found}
    if len({metrics[task][metric]["direction"] for task, metric in first.items()}) > 1:
        raise UserError(
            f"objective: less of one task's metric is better and more of another's; choose from "
            f"{', '.join(_names(metrics))}"
        )
    values = [float(metrics[task][metric]["value"]) for task, metric in first.items()]
    return sum(values) / len(values) if values else None
