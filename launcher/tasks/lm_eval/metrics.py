"""Declares the metrics of a task of lm-evaluation-harness, with its own aggregation."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.core.types import Aggregation, Direction, Json
from launcher.stats.metric import Metric
from launcher.stats.resampling import Statistic
from launcher.tasks import bounded
from launcher.tasks.lm_eval import sums
from launcher.tasks.lm_eval.documents import Document, judged
from launcher.tasks.lm_eval.loading import seeded

FRACTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1", "likelihood"})
"""Metrics that lie between 0 and 1 where lm-eval's own code makes them; a task's own may give per cent."""
FROM_ZERO = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "brier_score"})
TRIAL_S = 10.0
"""The CPU time in seconds of the trial that shows which metrics a task gives."""
TRUNCATED = "truncated"
"""The share of the answers that ended at the token limit: lm-eval scores them like any other."""


Range = tuple[float | None, float | None]


def name_of(metric: str, filter_name: str) -> str:
    """Return a metric's name as lm-eval writes it, ``metric,filter``; without the filter if that is ``none``."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def declared(task: Any, document: Document) -> tuple[Metric, ...]:
    """Return the metrics of a task for each of its filters; with generated text also `TRUNCATED`.

    Those that the scoring of a ``document`` gives come first, also such as the task does not declare: lm-eval takes
    their mean.
    """
    aggregations, better = task.aggregation(), task.higher_is_better()
    names = dict.fromkeys([*given(task, document), *aggregations])
    made = [
        _metric(name_of(name, each.name), _range(task, name), aggregations.get(name, _mean()), better.get(name, True))
        for each in task._filters
        for name in names
    ]
    cut = [Metric(TRUNCATED, Direction.lower)] if document.generating else []
    return (*made, *cut)


def given(task: Any, document: Document) -> list[str]:
    """Return the metrics that a task's scoring gives, as a trial shows in which the model says nothing.

    A scoring that fails without a real answer shows none.
    """
    trial = replace(document, instances=copy.deepcopy(document.instances), doc=copy.deepcopy(document.doc))
    answers = [[_nothing(each.request_type)] * (each.repeats or 1) for each in trial.instances]
    try:
        with seeded():
            results = _tried(task, trial, answers)
    except Exception:  # the code of a task may expect anything of an answer
        return []
    found = {str(name): value for values in results.values() for name, value in values.items()}
    return [name for name, value in found.items() if name in task.aggregation() or is_number(value)]


def _tried(task: Any, trial: Document, answers: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return what the scoring gives. Raises `TooSlow` where it does not end."""
    if threading.current_thread() is not threading.main_thread():
        return judged(task, trial, answers)
    return bounded.attempt(judged, task, trial, answers, cpu_s=TRIAL_S)


def is_number(value: Any) -> bool:
    """Tell whether a value can enter a mean."""
    return isinstance(plain(value), int | float)


def _nothing(request_type: str) -> Any:
    return {"generate_until": "", "loglikelihood_rolling": -1.0}.get(request_type, (-1.0, False))


def _mean() -> Callable[[Sequence[Json]], Any]:
    from lm_eval.api.metrics import mean

    found: Callable[[Sequence[Json]], Any] = mean
    return found


def _metric(name: str, bounds: Range, function: Callable[[Sequence[Json]], Any], higher: Any) -> Metric:
    direction = Direction.higher if higher else Direction.lower
    if function is _mean():
        return Metric(name, direction, bounds)
    return Metric(name, direction, bounds, Aggregation.corpus, combine=aggregated(function))


def _range(task: Any, metric: str) -> Range:
    """Return the bounds that are certain: a task with its own scoring may give any number a known name."""
    if not _scored_by_lm_eval(task):
        return None, None
    if metric in FRACTIONS:
        return 0.0, 1.0
    return (0.0, None) if metric in FROM_ZERO else (None, None)


def _scored_by_lm_eval(task: Any) -> bool:
    from lm_eval.api.task import ConfigurableTask

    own = type(task).process_results is not ConfigurableTask.process_results
    return not own and not callable(task.config.process_results)


@dataclass(frozen=True)
class Aggregated(Statistic):
    """An aggregation of lm-eval, over values that were stored as JSON."""

    def __call__(self, values: Sequence[Json]) -> float:
        found: Any = self.function
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's about each bootstrap sample with one label
            return float(found([restored(value) for value in values]))


def aggregated(function: Callable[[Sequence[Json]], Any]) -> Aggregated:
    return Aggregated(function, sums.of(function))


def restored(value: Json) -> Json:
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
