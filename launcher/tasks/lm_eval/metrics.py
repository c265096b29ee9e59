"""Declares the metrics of a task of lm-evaluation-harness, with its own aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from launcher.core.types import Aggregation, Direction, Json
from launcher.stats.metric import Metric

FRACTIONS = frozenset(
    {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "em", "f1", "exact", "likelihood"}
)
"""Metrics of lm-eval whose values lie between 0 and 1."""
FROM_ZERO = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score"})
TO_HUNDRED = frozenset({"bleu", "chrf", "rouge1", "rouge2", "rougeL"})
TRUNCATED = "truncated"
"""The share of the answers that ended at the token limit: lm-eval scores them like any other."""


def name_of(metric: str, filter_name: str) -> str:
    """Return a metric's name here: lm-eval's own, followed by that of the filter unless that is ``none``."""
    return metric if filter_name == "none" else f"{metric}/{filter_name}"


def declared(task: Any) -> tuple[Metric, ...]:
    """Return the metrics of a task for each of its filters; with generated text also `TRUNCATED`."""
    aggregations, better = task.aggregation(), task.higher_is_better()
    made = [
        _metric(name_of(metric, each.name), metric, function, bool(better.get(metric, True)))
        for each in task._filters
        for metric, function in aggregations.items()
    ]
    cut = [Metric(TRUNCATED, Direction.lower)] if task.OUTPUT_TYPE == "generate_until" else []
    return (*made, *cut)


def _metric(name: str, metric: str, function: Callable[[Sequence[Json]], Any], higher: bool) -> Metric:
    from lm_eval.api.metrics import mean

    direction = Direction.higher if higher else Direction.lower
    if function is mean:
        return Metric(name, direction, _range(metric))
    return Metric(name, direction, _range(metric), Aggregation.corpus, combine=_combining(function))


def _range(metric: str) -> tuple[float | None, float | None]:
    if metric in FRACTIONS:
        return 0.0, 1.0
    if metric in TO_HUNDRED:
        return 0.0, 100.0
    return (0.0, None) if metric in FROM_ZERO else (None, None)


def _combining(function: Callable[[Sequence[Json]], Any]) -> Callable[[Sequence[Json]], float]:
    def combine(values: Sequence[Json]) -> float:
        return float(function([_restored(value) for value in values]))

    return combine


def _restored(value: Json) -> Json:
    """Return a value as `process_results` gave it: JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value


def plain(value: Any) -> Json:
    """Return a value of `process_results` as JSON: tuples and arrays as lists, truth values and numbers as numbers."""
    if hasattr(value, "tolist"):  # an array or a number of numpy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return float(value) if isinstance(value, bool) else value
