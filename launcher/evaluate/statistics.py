"""Summarizes the records of a run: metrics, coverage, reasons and speed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from launcher.core.console import one_line
from launcher.core.reasons import Reasons
from launcher.core.types import NOT_ASKED, Aggregation, Json, MetricResult, Record, Status, TaskResult
from launcher.evaluate.exchange import AnswerTiming
from launcher.stats.clusters import Clusters
from launcher.stats.distribution import Distribution
from launcher.stats.metric import Metric

PERCENTILES = (50, 90, 99)

MOST_CATEGORIES = 1000
"""A field with more values is no category, but an id or a text."""
MANY = f"it has more than {MOST_CATEGORIES:,} categories, of which none is shown"
UNCOUNTED = "the run ended before all samples were counted; the total has only those with an end"


def summarize(
    records: Iterable[Record], totals: Mapping[str, int | None], metrics: Mapping[str, Sequence[Metric]]
) -> dict[str, TaskResult]:
    """Return the metrics and the coverage of every task.

    ``totals`` are the tasks' numbers of samples, None or missing where not known: then the metrics have no bounds.
    Samples without a record were not asked, or not answered before the run ended: ``not_asked``. ``metrics`` are those
    that the tasks declare. Only scored samples enter a metric; a task without one has no metrics.
    """
    summary = Summary(totals, metrics, in_order=False)
    for record in records:
        summary.add(record)
    return summary.results()


class OutOfOrder(Exception):
    """The repeats of an item may stand apart."""


class Summary:
    """Gathers what `summarize` returns, record by record.

    With ``in_order`` the repeats of an item stand one after the other from the first, as in the file of an evaluation
    that has ended. Then a value that is a float takes 8 bytes. Else each is kept with the id of its item.
    """

    def __init__(
        self, totals: Mapping[str, int | None], metrics: Mapping[str, Sequence[Metric]], *, in_order: bool
    ) -> None:
        self._totals, self._metrics, self._in_order = totals, metrics, in_order
        self._tasks = {name: self._tally(name) for name in totals}

    def _tally(self, name: str) -> _Tally:
        return _Tally(self._metrics.get(name, ()), in_order=self._in_order)

    def add(self, record: Record) -> None:
        """Count a record. Raises `OutOfOrder` if that is not so."""
        if record.task not in self._tasks:
            self._tasks[record.task] = self._tally(record.task)
        self._tasks[record.task].add(record)

    def fault(self, record: Record) -> str | None:
        """Return what is wrong with the scores of a record that another hand changed; None if they can be counted."""
        if record.status is not Status.scored:
            return None
        declared, scores = self._metrics.get(record.task, ()), record.scores
        faults = (metric.fault(scores[metric.name]) for metric in declared if metric.name in scores)
        return next((fault for fault in faults if fault is not None), None)

    @property
    def asked(self) -> dict[str, int]:
        """The number of records of each task."""
        return {name: sum(tally.ended.values()) for name, tally in self._tasks.items()}

    def results(self, totals: Mapping[str, int | None] | None = None) -> dict[str, TaskResult]:
        """Return the results; ``totals`` replaces those given before."""
        sizes = self._totals if totals is None else totals
        return {name: _result(tally, sizes.get(name)) for name, tally in self._tasks.items()}


class _Tally:
    """What the records of one task say."""

    def __init__(self, metrics: Sequence[Metric], *, in_order: bool) -> None:
        self._new = partial(_Tally, metrics, in_order=in_order)
        self.categories: dict[str, _Tally] = {}
        self.has_too_many = False
        self.values: dict[Metric, _Column] = {metric: (_InOrder if in_order else _Apart)(metric) for metric in metrics}
        self.ended: Counter[str] = Counter()
        self.why: dict[str, Reasons] = defaultdict(Reasons)
        self.odd = Reasons()
        self.again: dict[str, Counter[str]] = {}

    @property
    def coverage(self) -> dict[str, int]:
        return {status.value: self.ended.get(status.value, 0) for status in Status}

    def add(self, record: Record) -> None:
        self._count(record)
        if record.category is not None and not self.has_too_many:
            self._add_to(record.category, record)

    def _count(self, record: Record) -> None:
        _count_again(record, self.again)
        self.ended[record.status.value] += 1
        for note in record.notes:
            self.odd.add(note)
        if record.status is Status.scored:
            for metric, column in self.values.items():
                if metric.name in record.scores:
                    column.add(record, record.scores[metric.name])
        elif record.reason:
            self.why[record.status.value].add(record.reason)

    def _add_to(self, category: str, record: Record) -> None:
        if category not in self.categories:
            self.categories[category] = self._new()
        self.categories[category]._count(record)
        if len(self.categories) > MOST_CATEGORIES:
            self.categories, self.has_too_many = {}, True


def _unit(record: Record, metric: Metric) -> str:
    """Return what the value of a sample is drawn with: its item; in one number of all samples its passage."""
    apart = metric.aggregation is not Aggregation.corpus or record.cluster is None
    return record.id if apart else f"//{record.cluster}"


class _Column(ABC):
    """The values of one metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    @abstractmethod
    def add(self, record: Record, value: Json) -> None: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def result(self, total: int) -> MetricResult: ...


class _Apart(_Column):
    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self._values: list[tuple[str, Json]] = []

    def add(self, record: Record, value: Json) -> None:
        self._values.append((_unit(record, self.metric), value))

    def __len__(self) -> int:
        return len(self._values)

    def result(self, total: int) -> MetricResult:
        return self.metric.result(self._values, total)


class _InOrder(_Column):
    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self._clusters = Clusters()
        self._item: str | None = None
        self._units: list[str] | None = None

    def add(self, record: Record, value: Json) -> None:
        if self._units is None and _unit(record, self.metric) != record.id:
            items = enumerate(self._clusters.values())
            self._units = [f"/{number}" for number, found in items for _ in found]
        if self._units is not None:
            self._units.append(_unit(record, self.metric))
        is_new = record.id != self._item
        if is_new and record.repeat:
            raise OutOfOrder
        if self.metric.aggregation is Aggregation.mean and type(value) is int:
            value = float(value)
        self._clusters.add(value, new_item=is_new)
        self._item = record.id

    def __len__(self) -> int:
        return self._clusters.count

    def result(self, total: int) -> MetricResult:
        if self._units is not None:  # the samples of a passage may stand apart
            return self.metric.result(list(zip(self._units, self._clusters.flat, strict=True)), total)
        return self.metric.of(self._clusters, total)


def _count_again(record: Record, again: dict[str, Counter[str]]) -> None:
    """Count a sample that had a second attempt by what the first was; an answer that stands is named by itself."""
    for entry in record.earlier:
        stands = record.status is Status.truncated and entry["status"] != Status.truncated.value
        kind = Status.truncated.value if stands else str(entry["status"])
        counts = again.setdefault(kind, Counter())
        counts["asked"] += 1
        counts["scored"] += record.status is Status.scored


def _result(tally: _Tally, total: int | None) -> TaskResult:
    asked = sum(tally.ended.values())
    known, total = total is not None, max(total or 0, asked)
    metrics, faults = _metrics(tally, total)
    if not known:
        metrics = {name: replace(metric, low=math.nan, high=math.nan) for name, metric in metrics.items()}
        faults[UNCOUNTED] = asked
    counts = {**tally.coverage, NOT_ASKED: total - asked, "total": total}
    reasons = {status: said.common() for status, said in tally.why.items()}
    retried = {kind: {"asked": found["asked"], "scored": found["scored"]} for kind, found in tally.again.items()}
    if tally.has_too_many:
        faults[MANY] = asked
    categories = {
        name: _category(tally.categories[name], known and total == asked) for name in sorted(tally.categories)
    }
    return TaskResult(metrics, counts, reasons, tally.odd.common() | faults, retried, categories=categories)


def _category(tally: _Tally, is_whole: bool) -> TaskResult:
    """Return what a category comes to; how many samples it has in all is known only where ``is_whole``."""
    asked = sum(tally.ended.values())
    metrics, _ = _metrics(tally, asked)
    if not is_whole:
        metrics = {name: replace(metric, low=math.nan, high=math.nan) for name, metric in metrics.items()}
    return TaskResult(
        metrics, {**{status.value: tally.ended.get(status.value, 0) for status in Status}, "total": asked}
    )


def _metrics(tally: _Tally, total: int) -> tuple[dict[str, MetricResult], dict[str, int]]:
    """Return the results, and for metrics that cannot be computed a note with the number of samples that lack them."""
    made: dict[str, MetricResult] = {}
    faults: dict[str, int] = {}
    for metric, column in tally.values.items():
        try:
            if len(column):
                made[metric.name] = column.result(total)
        except Exception as error:  # a fault of the task's code, or a damaged file; the other metrics count
            faults[one_line(f"{metric.name} cannot be computed: {type(error).__name__}: {error}")] = len(column)
    return made, faults


class Throughput:
    """Sums up the requests that a server answered. ``cached`` counts those beside them, without the server."""

    def __init__(self) -> None:
        self.cached = 0
        self._latencies = Distribution()
        self._prompt = self._generated = self._without_usage = self._scored = self._generations = 0
        self._first, self._each = Distribution(), Distribution()

    def add(self, answer: AnswerTiming) -> None:
        self._latencies.add(answer.latency_s)
        self._prompt += answer.prompt_tokens or 0
        self._generated += answer.completion_tokens or 0
        self._without_usage += answer.completion_tokens is None
        self._scored += answer.scored_prompts
        self._generations += not answer.scored_prompts
        if answer.ttft_s is not None:
            self._first.add(answer.ttft_s)
        if answer.tpot_s is not None:
            self._each.add(answer.tpot_s)

    @property
    def is_empty(self) -> bool:
        return not (self._latencies.count or self.cached)

    def facts(self, wall_s: float) -> dict[str, Json]:
        """Return rates, latencies in seconds and token totals of the answers in ``wall_s`` seconds.

        ``without_usage`` answers had no token counts that can be right, so that the token figures lack them. Of all,
        ``generations`` were generated; the others are of ``scored_prompts``. ``ttft_s`` and ``tpot_s`` are None where a
        server says nothing of its generations.
        """
        count = self._latencies.count
        return {
            "requests": count,
            "requests_per_s": _rate(count, wall_s),
            "generated_tokens": self._generated,
            "generated_tokens_per_s": _rate(self._generated, wall_s),
            "prompt_tokens": self._prompt,
            "prompt_tokens_per_s": _rate(self._prompt, wall_s),
            "cached": self.cached,
            "without_usage": self._without_usage,
            "latency_s": _percentiles(self._latencies),
            "generations": self._generations,
            "scored_prompts": self._scored,
            "scored_prompts_per_s": _rate(self._scored, wall_s),
            "ttft_s": self._times(self._first),
            "tpot_s": self._times(self._each),
            "wall_s": round(wall_s, 6),
        }

    def _times(self, found: Distribution) -> dict[str, Json] | None:
        return {**_percentiles(found), "answers": found.count} if found.count else None


def _percentiles(found: Distribution) -> dict[str, Json]:
    values = zip(PERCENTILES, found.quantiles([p / 100 for p in PERCENTILES]), strict=False)
    return {f"p{p}": round(value, 6) for p, value in values}


def _rate(count: int, wall_s: float) -> float:
    return round(count / wall_s, 3) if wall_s > 0 else 0.0
