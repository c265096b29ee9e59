"""Means with their uncertainty, coverage, and speed."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from launcher.core.types import NOT_ASKED, Json, Metric, Record, Status, TaskResult
from launcher.evaluate.exchange import Timing

Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: 95 % two-sided."""
REASONS = 3
"""How many reasons for a lost sample are kept per status; every sample's own is in ``samples.jsonl``."""


def summarize(records: Iterable[Record], totals: Mapping[str, int]) -> dict[str, TaskResult]:
    """Return every task's metrics and coverage.

    ``totals`` are the tasks' numbers of samples; those without a record were not asked, or not answered before the
    run ended: ``not_asked``. A metric is the mean over the scored samples only; a task without one has no metrics.
    """
    values: dict[str, dict[str, list[tuple[str, float]]]] = {name: defaultdict(list) for name in totals}
    ended: dict[str, Counter[str]] = {name: Counter() for name in totals}
    why: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    odd: dict[str, list[str]] = defaultdict(list)
    for record in records:
        ended.setdefault(record.task, Counter())[record.status.value] += 1
        odd[record.task] += record.notes
        if record.status is Status.scored:
            for metric, value in record.scores.items():
                values.setdefault(record.task, defaultdict(list))[metric].append((record.id, value))
        elif record.reason:
            why[record.task][record.status.value].append(record.reason)
    return {
        name: _result(values.get(name, {}), ended[name], totals.get(name, 0), why[name], odd[name]) for name in ended
    }


def _result(
    values: Mapping[str, list[tuple[str, float]]],
    ended: Mapping[str, int],
    total: int,
    why: Mapping[str, list[str]],
    odd: Sequence[str],
) -> TaskResult:
    asked = sum(ended.values())
    total = max(total, asked)
    coverage = {status.value: ended.get(status.value, 0) for status in Status}
    metrics = {name: metric(found, total) for name, found in values.items()}
    counts = {**coverage, NOT_ASKED: total - asked, "total": total}
    return TaskResult(metrics, counts, {status: _common(said) for status, said in why.items()}, _common(odd))


def _common(said: Sequence[str]) -> dict[str, int]:
    """Count the most common reasons; those that differ in numbers only are one, named by the first of them."""
    alike: dict[str, list[str]] = defaultdict(list)
    for reason in said:
        alike[re.sub(r"\d+", "#", reason)].append(reason)
    return {group[0]: len(group) for group in sorted(alike.values(), key=len, reverse=True)[:REASONS]}


def metric(values: Sequence[tuple[str, float]], total: int) -> Metric:
    """Return the mean of one or more ``(id, value)`` with values from 0 to 1, out of ``total`` samples.

    The standard error is the sample's standard deviation over the root of n; where ids repeat it is clustered by id
    (Miller 2024, "Adding error bars to evals"). The interval is Wilson's for values of 0 and 1 (with the effective n
    that the clustered error implies), else the normal one. A single value says nothing of its spread: the error is then
    half the width of Wilson's interval over z, and for a value other than 0 and 1 the interval is all of [0, 1].
    """
    n = len(values)
    mean = math.fsum(value for _, value in values) / n
    stderr = _stderr(values, mean)
    low, high = _interval(values, mean, stderr)
    if n == 1:
        stderr = (high - low) / (2 * Z)
    scored = math.fsum(value for _, value in values)
    return Metric(mean, stderr, low, high, n, scored / total, (scored + total - n) / total)


def _stderr(values: Sequence[tuple[str, float]], mean: float) -> float:
    """Return the clustered standard error; with one value per id it is sd / sqrt(n) with n - 1 degrees of freedom."""
    off: dict[str, float] = defaultdict(float)
    for key, value in values:
        off[key] += value - mean
    clusters = len(off)
    if clusters < 2:
        return 0.0
    return math.sqrt(math.fsum(o * o for o in off.values()) * clusters / (clusters - 1)) / len(values)


def _interval(values: Sequence[tuple[str, float]], mean: float, stderr: float) -> tuple[float, float]:
    clusters = len({key for key, _ in values})
    if all(value in (0.0, 1.0) for _, value in values):
        return wilson(mean, _effective(mean, stderr, clusters, len(values)))
    if clusters == 1:
        return 0.0, 1.0
    return mean - Z * stderr, mean + Z * stderr


def _effective(mean: float, stderr: float, clusters: int, n: int) -> float:
    """Return how many independent samples are worth as much as these: between the number of ids and of samples."""
    if clusters == n or not stderr:
        return clusters
    return min(float(n), max(float(clusters), mean * (1 - mean) / stderr**2))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval for a share of ``n`` (Wilson 1927)."""
    scale = 1 + Z * Z / n
    center = (share + Z * Z / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of an ascending sequence lies, interpolated linearly."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def throughput(answered: Sequence[Timing], wall_s: float, cached: int = 0) -> dict[str, Json]:
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
        "latency_s": {f"p{p}": round(percentile(latencies, p / 100), 6) for p in (50, 90, 99) if latencies},
        "wall_s": round(wall_s, 6),
    }


def _rate(count: int, wall_s: float) -> float:
    return round(count / wall_s, 3) if wall_s > 0 else 0.0
