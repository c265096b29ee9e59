"""The value of a point, or its values, by which a sweeper chooses the next points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.report import results

Value = float | list[float] | None


def value(folder: Path, objective: Json) -> Value:
    """Return the value of the run in ``folder``: that of ``objective``, ``<task>.<metric>``, or of each of a list.

    Without an objective it is the mean over the tasks of each task's first metric; a group of tasks counts as one. A
    run without a scored sample, or whose status is not ``ok``, has the value None. Raises `UserError` for a metric that
    the run does not have, and for a mean of metrics that point in opposite directions.
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
    values = {f"{task}.{metric}": entry["value"] for task, found in metrics.items() for metric, entry in found.items()}
    if name in values:
        return float(values[name])
    if not any(found and name.startswith(f"{task}.") for task, found in metrics.items()):  # nothing of it was scored
        return None
    raise UserError(f"objective={name}: the points have no such metric; expected one of {', '.join(values)}")


def _names(metrics: Mapping[str, Json]) -> list[str]:
    return [f"{task}.{metric}" for task, found in metrics.items() for metric in found]


def _mean(metrics: Mapping[str, Json]) -> float | None:
    first = {task: next(iter(found)) for task, found in metrics.items() if found}
    if len({metrics[task][metric]["direction"] for task, metric in first.items()}) > 1:
        raise UserError(
            "objective: the tasks' metrics point in opposite directions; set objective=<task>.<metric>, one of "
            f"{', '.join(_names(metrics))}"
        )
    values = [float(metrics[task][metric]["value"]) for task, metric in first.items()]
    return sum(values) / len(values) if values else None
