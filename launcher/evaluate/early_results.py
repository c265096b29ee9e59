"""What stopping early means for results: intervals that may be looked at any time, and samples that are not needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from launcher.core.types import NOT_NEEDED, Interval, Json, MetricResult, TaskResult


def totals(given: Mapping[str, int | None], asked: Mapping[str, int], facts: Json) -> dict[str, int | None]:
    """Return the samples of each task that a verdict needed: of one that has its verdict, those that were asked."""
    decided = {task for each in _populations(facts).values() if each["decided"] for task in each["sizes"]}
    return {task: asked.get(task, 0) if task in decided else total for task, total in given.items()}


def applied(results: Mapping[str, TaskResult], given: Mapping[str, int | None], facts: Json) -> dict[str, TaskResult]:
    """Return the results with their early intervals, and the samples that are not needed beside the others."""
    made = dict(results)
    for name, population in _populations(facts).items():
        for task in population["sizes"]:
            if task in made and population["asked"] < population["total"]:
                made[task] = _early(made[task], task, given.get(task), population, _told(name, population, facts))
    return made


def of_groups(facts: Json) -> dict[str, dict[str, Json]]:
    """Return for each group that was drawn as one its intervals by metric, and what is told of it."""
    return {
        name: {"intervals": each["intervals"].get(name, {}), "told": _told(name, each, facts)}
        for name, each in _populations(facts).items()
        if each["asked"] < each["total"] and list(each["sizes"]) != [name]
    }


def sequential(result: MetricResult, interval: Json) -> MetricResult:
    """Return a result with a confidence sequence, or without an interval: others are wrong after a look."""
    if interval is None:
        return replace(result, interval=Interval.none, ci_low=math.nan, ci_high=math.nan)
    low, high = min(interval[0], result.value), max(interval[1], result.value)
    return replace(result, interval=Interval.sequence, ci_low=low, ci_high=high)


def _populations(facts: Json) -> Mapping[str, Json]:
    return (facts or {}).get("populations") or {}


def _told(name: str, population: Mapping[str, Json], facts: Json) -> dict[str, Json]:
    told = {key: population[key] for key in ("metric", "asked", "total", "decided")}
    return {"population": name, "until": facts["until"], "level": facts["level"], **told}


def _early(
    result: TaskResult, task: str, total: int | None, population: Mapping[str, Json], told: dict[str, Json]
) -> TaskResult:
    intervals = population["intervals"].get(task, {})
    metrics = {name: sequential(metric, intervals.get(name)) for name, metric in result.metrics.items()}
    spared = max(0, (total or 0) - result.coverage["total"]) if population["decided"] else 0
    coverage = {**result.coverage, NOT_NEEDED: spared} if population["decided"] else result.coverage
    categories = {name: _without_intervals(each) for name, each in result.categories.items()}
    return replace(result, metrics=metrics, coverage=coverage, early_stop=told, categories=categories)


def _without_intervals(result: TaskResult) -> TaskResult:
    return replace(result, metrics={name: sequential(metric, None) for name, metric in result.metrics.items()})
