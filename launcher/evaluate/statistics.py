"""Summarizes the records of a run: metrics, coverage, reasons and speed."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from launcher.core.console import one_line
from launcher.core.types import NOT_ASKED, Json, MetricResult, Record, Status, TaskResult
from launcher.evaluate.exchange import AnswerTiming
from launcher.stats.metric import Metric
from launcher.stats.quantiles import quantile

REASONS = 3
"""How many reasons for a lost sample are kept per status; every sample's own is in ``samples.jsonl``."""

UNCOUNTED = "the run ended before all samples were counted; the total has only those with an end"


def summarize(
    records: Iterable[Record], totals: Mapping[str, int | None], metrics: Mapping[str, Sequence[Metric]]
) -> dict[str, TaskResult]:
    """Return the metrics and the coverage of every task.

    ``totals`` are the tasks' numbers of samples, None or missing where not known: then the metrics have no bounds.
    Samples without a record were not asked, or not answered before the run ended: ``not_asked``. ``metrics`` are those
    that the tasks declare. Only scored samples enter a metric; a task without one has no metrics.
    """
    values: dict[str, dict[str, list[tuple[str, Json]]]] = {name: defaultdict(list) for name in totals}
    ended: dict[str, Counter[str]] = {name: Counter() for name in totals}
    why: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    odd: dict[str, list[str]] = defaultdict(list)
    again: dict[str, dict[str, Counter[str]]] = defaultdict(dict)
    for record in records:
        _count_again(record, again[record.task])
        ended.setdefault(record.task, Counter())[record.status.value] += 1
        odd[record.task] += record.notes
        if record.status is Status.scored:
            for metric, value in record.scores.items():
                values.setdefault(record.task, defaultdict(list))[metric].append((record.id, value))
        elif record.reason:
            why[record.task][record.status.value].append(record.reason)
    return {
        name: _result(
            {metric: values.get(name, {}).get(metric.name, []) for metric in metrics.get(name, ())},
            ended[name],
            totals.get(name),
            why[name],
            odd[name],
            again[name],
        )
        for name in ended
    }


def _count_again(record: Record, again: dict[str, Counter[str]]) -> None:
    """Count a sample that had a second attempt by what the first was; an answer that stands is named by itself."""
    for entry in record.earlier:
        stands = record.status is Status.truncated and entry["status"] != Status.truncated.value
        kind = Status.truncated.value if stands else str(entry["status"])
        counts = again.setdefault(kind, Counter())
        counts["asked"] += 1
        counts["scored"] += record.status is Status.scored


def _result(
    values: Mapping[Metric, list[tuple[str, Json]]],
    ended: Mapping[str, int],
    total: int | None,
    why: Mapping[str, list[str]],
    odd: Sequence[str],
    again: Mapping[str, Counter[str]],
) -> TaskResult:
    asked = sum(ended.values())
    known, total = total is not None, max(total or 0, asked)
    coverage = {status.value: ended.get(status.value, 0) for status in Status}
    metrics, faults = _metrics(values, total)
    if not known:
        metrics = {name: replace(metric, low=math.nan, high=math.nan) for name, metric in metrics.items()}
        faults[UNCOUNTED] = asked
    counts = {**coverage, NOT_ASKED: total - asked, "total": total}
    reasons = {status: _common(said) for status, said in why.items()}
    retried = {kind: {"asked": found["asked"], "scored": found["scored"]} for kind, found in again.items()}
    return TaskResult(metrics, counts, reasons, _common(odd) | faults, retried)


def _metrics(
    values: Mapping[Metric, list[tuple[str, Json]]], total: int
) -> tuple[dict[str, MetricResult], dict[str, int]]:
    """Return the results, and for metrics that cannot be computed a note with the number of samples that lack them."""
    made: dict[str, MetricResult] = {}
    faults: dict[str, int] = {}
    for metric, found in values.items():
        try:
            if found:
                made[metric.name] = metric.result(found, total)
        except Exception as error:  # a fault of the task's code, or a damaged file; the other metrics count
            faults[one_line(f"{metric.name} cannot be computed: {type(error).__name__}: {error}")] = len(found)
    return made, faults


def _common(said: Sequence[str]) -> dict[str, int]:
    """Count the most common reasons; those that differ in numbers only are one, named by the first of them."""
    alike: dict[str, list[str]] = defaultdict(list)
    for reason in said:
        alike[re.sub(r"\d+", "#", reason)].append(reason)
    return {group[0]: len(group) for group in sorted(alike.values(), key=len, reverse=True)[:REASONS]}


def throughput(answered: Sequence[AnswerTiming], wall_s: float, cached: int = 0) -> dict[str, Json]:
    """Return rates, latencies in seconds and token totals of the requests that a server answered in ``wall_s`` seconds.

    ``without_usage`` answers had no token counts that can be right, so that the token figures lack them. ``cached``
    requests beside these were answered without the server.
    """
    latencies = sorted(answer.latency_s for answer in answered)
    prompt = sum(answer.prompt_tokens or 0 for answer in answered)
    generated = sum(answer.completion_tokens or 0 for answer in answered)
    return {
        "requests": len(answered),
        "requests_per_s": _rate(len(answered), wall_s),
        "generated_tokens": generated,
        "generated_tokens_per_s": _rate(generated, wall_s),
        "prompt_tokens": prompt,
        "prompt_tokens_per_s": _rate(prompt, wall_s),
        "cached": cached,
        "without_usage": sum(answer.completion_tokens is None for answer in answered),
        "latency_s": {f"p{p}": round(quantile(latencies, p / 100), 6) for p in (50, 90, 99) if latencies},
        "wall_s": round(wall_s, 6),
    }


def _rate(count: int, wall_s: float) -> float:
    return round(count / wall_s, 3) if wall_s > 0 else 0.0
