"""Finds what is wrong with the samples and scores that a task gives, before they reach a file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from launcher.core.errors import TaskError
from launcher.core.types import Json, Request, Sample, Score, Status, is_object
from launcher.stats.metric import Metric
from launcher.tasks.base import Task

TEXT = frozenset({str})
TEXTS = frozenset({str, bool, type(None)})
CONTAINERS = frozenset({dict, list, tuple})
LARGE = 10**18
"""Whole numbers below this are written as they are."""
MAX_LEVELS, MAX_VALUES = 6, 64
"""Values of so few levels, each with so few values, are looked at without writing them."""


def fault_of(score: object, task: Task) -> str | None:
    """Return what is wrong with what ``Task.score`` returned, None if it can be recorded and aggregated."""
    if not isinstance(score, Score):
        return f"it returned {score!r}, expected a Score"
    if not isinstance(score.status, Status):
        return f"its status is {score.status!r}, expected a Status"
    if not isinstance(score.reason, str | None):
        return f"its reason is {score.reason!r}, expected a text or None"
    if not is_object(score.scores):
        return f"its scores are {score.scores!r}, expected a mapping from metrics to values"
    return _of_scores(score, task.metrics) or _not_json("its prediction", score.prediction)


def _of_scores(score: Score, metrics: Sequence[Metric]) -> str | None:
    declared = {metric.name: metric for metric in metrics}
    for name, value in score.scores.items():
        if name not in declared:
            return f"it gave {name!r}; the task declares {', '.join(declared)}"
        found = declared[name].fault(value) or _not_json(name, value)
        if found is not None:
            return found
    main = metrics[0].name
    if score.status is Status.scored and main not in score.scores:
        return f"it gave no value for {main}, the task's first metric"
    return None


def check_sample(sample: object, task: str) -> None:
    """Raise `TaskError` for a sample that cannot be sent or recorded."""
    if not isinstance(sample, Sample):
        raise TaskError(f"samples() gave {sample!r}, expected a Sample")
    if not isinstance(sample.id, str):
        raise TaskError(f"a sample has the id {sample.id!r}, expected a text")
    if sample.task != task:
        raise TaskError(f"sample '{sample.id}' has the task {sample.task!r}, expected {task!r}, the name in the run")
    _check_requests(sample)
    fault = _not_json("target", sample.target)
    if fault is not None:
        raise TaskError(f"sample '{sample.id}': {fault}")


def _check_requests(sample: Sample) -> None:
    found: object = sample.requests
    if not isinstance(found, tuple | list) or not all(isinstance(request, Request) for request in found):
        raise TaskError(f"sample '{sample.id}': requests is {found!r}, expected a tuple of Request")
    if not found:
        raise TaskError(f"sample '{sample.id}' has no request")
    for request in sample.requests:
        fault = _not_json("request", request.body)
        if fault is not None or not is_object(request.body):
            raise TaskError(f"sample '{sample.id}': {fault or 'the body of a request is not a mapping'}")


def _not_json(what: str, value: Json) -> str | None:
    """Return what keeps a value from being written as JSON."""
    if _is_plain(value, MAX_LEVELS):
        return None
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return f"{what} cannot be written as JSON: {error}"
    return None


def _is_plain(value: Json, levels: int) -> bool:
    """Return whether a value surely is JSON; False where only ``json`` itself can tell."""
    kind = type(value)
    if kind not in CONTAINERS:
        return kind in TEXTS or _is_plain_number(value)
    if not levels or len(value) > MAX_VALUES or not (kind is not dict or TEXT.issuperset(map(type, value))):
        return False
    for part in value.values() if kind is dict else value:
        if type(part) not in TEXTS and not _is_plain(part, levels - 1):
            return False
    return True


def _is_plain_number(value: Json) -> bool:
    kind = type(value)
    return (kind is int and -LARGE < value < LARGE) or (kind is float and math.isfinite(value))
