"""Compares two runs within each category of a task: a look for what to study next, not a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from launcher.report.compare import compare
from launcher.stats.paired import holm
from launcher.verdict import sequential
from launcher.verdict.comparison import Row
from launcher.verdict.runs import Run


@dataclass(frozen=True)
class CategoryRow:
    """A metric of a task in two runs, on the questions of one ``category``."""

    category: str
    row: Row


def rows(runs: Sequence[Run]) -> list[CategoryRow]:
    """Compare every run with the first in each category, by the first metric of each task that both have.

    Holm's method corrects ``p_holm`` over the categories of a task. A task of one category has no rows, and neither has
    one that stopped early: its order was not made for parts of it.
    """
    return [found for run in runs[1:] for task in runs[0].results["tasks"] for found in _corrected(runs[0], run, task)]


def _corrected(a: Run, b: Run, task: str) -> list[CategoryRow]:
    metric = next(iter(of_metrics(a, b, task)), None)
    found = [] if metric is None else list(of_task(a, b, task, metric).items())
    if len(found) < 2:
        return []
    corrected = holm([row.found.p for _, row in found])
    return [
        CategoryRow(name, replace(row, found=replace(row.found, p_holm=p)))
        for (name, row), p in zip(found, corrected, strict=True)
    ]


def of_metrics(a: Run, b: Run, task: str) -> Iterator[str]:
    """Yield the metrics of a task whose values both runs have."""
    mine, others = a.results["tasks"].get(task), b.results["tasks"].get(task)
    if mine is None or others is None:
        return
    for metric in mine["metrics"]:
        key = task, metric
        if metric in others["metrics"] and any(key in known for known in (a.answers.values, a.answers.parts)):
            yield metric


def of_task(a: Run, b: Run, task: str, metric: str) -> dict[str, Row]:
    """Return the comparison of each category of a task, uncorrected; the first run says which question is of which."""
    if sequential.drawn(a, b, task) is not None:
        return {}
    names = {**b.answers.categories.get(task, {}), **a.answers.categories.get(task, {})}
    left, right = (run.answers.by_category(task, metric, names) for run in (a, b))
    lower = a.results["tasks"][task]["metrics"][metric]["direction"] == "lower"
    made: dict[str, Row] = {}
    for name in sorted(left.keys() & right.keys()):
        found = compare((a.label, left[name]), (b.label, right[name]), task, metric)
        if found is not None and found.values is not None:
            made[name] = Row(found, found.values[0], found.values[1], lower)
    return made
