"""Paired comparison of two runs on the samples that both scored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import Aggregation, Record, Status
from launcher.report.schema import TaskEntry
from launcher.stats.clusters import Clusters
from launcher.stats.intervals import clustered_error
from launcher.stats.paired import ALPHA, holm, mean, sign_test, standard_error, t_test
from launcher.tasks.code import pass_at_k

CLUSTERED = "clustered t"
FEWEST_CLUSTERS = 10
"""With fewer passages, the error that is clustered by them is not reliable, so that nothing is claimed."""


@dataclass(frozen=True)
class Comparison:
    """Run ``b`` against run ``a`` on the ``n`` items that both scored.

    ``difference`` is the mean of b - a and ``stderr`` the standard error of that mean (None for n = 1). ``p`` is a
    two-sided p-value. ``test`` is ``sign`` where every value is 0 or 1: McNemar's exact test. Else it is ``t``:
    Student's paired t-test. ``p_holm`` is ``p`` after Holm's correction. ``left_out``
    counts the items of either run that are not in both, or not scored in both, or have another target. Where items
    share passages, ``clusters`` is the number of these, and ``test`` is ``clustered t``: Student's t with an error that
    is clustered by them. Fewer than `FEWEST_CLUSTERS` tell nothing: ``p`` is 1. ``values`` are the means of both runs
    over these items.
    """

    task: str
    metric: str
    a: str
    b: str
    n: int
    left_out: int
    difference: float
    stderr: float | None
    test: str
    p: float
    p_holm: float
    clusters: int | None = field(default=None, kw_only=True)
    values: Sequence[float] | None = field(default=None, kw_only=True)

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass
class Answers:
    """The scores of a run: the ids of every task, and by task and metric the values of each id's repeats.

    A value's key holds the item's target too, so that equal ids of different items make no pair.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[tuple[str, int], list[float]]] = field(default_factory=dict)
    clusters: dict[str, dict[str, str]] = field(default_factory=dict)
    """By task, the cluster of each id that has one."""
    _means: set[tuple[str, str]] = field(default_factory=set)
    _by_id: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: Path, tasks: Mapping[str, TaskEntry]) -> Answers:
        """Read the samples of a run folder, with the values of those metrics of ``tasks`` that are means over items.

        Those of pass@k are one estimate for each item. A paired difference says nothing of other aggregations. Within
        `reading_once`, a file is read once for the same metrics. Raises `ResumeError` for a damaged line.
        """
        means = frozenset(_means(tasks))
        known = _kept.get()
        if known is None:
            return cls._read(folder, means)
        key = folder.resolve(), RunFolder(folder).samples_version(), means
        if key not in known:
            known[key] = cls._read(folder, means)
        return known[key]

    @classmethod
    def _read(cls, folder: Path, means: frozenset[tuple[str, str]]) -> Answers:
        answers = cls(_means=set(means))
        for record in RunFolder(folder).records():
            answers._add(record)
        for task, metric in means:
            if (k := pass_at_k.k_of(metric)) > 1:
                found = answers.values.get((task, metric), {})
                made = {question: pass_at_k.estimate(passed, k) for question, passed in found.items()}
                answers.values[task, metric] = {key: [value] for key, value in made.items() if value is not None}
        return answers

    def by_id(self, task: str, metric: str) -> dict[str, list[float]]:
        """Return the values of a metric by the id of the question alone, computed once."""
        key = task, metric
        if key not in self._by_id:
            self._by_id[key] = {question[0]: values for question, values in self.values.get(key, {}).items()}
        return self._by_id[key]

    def _add(self, record: Record) -> None:
        self.ids.setdefault(record.task, set()).add(record.id)
        if record.cluster is not None:
            self.clusters.setdefault(record.task, {})[record.id] = record.cluster
        if record.status is not Status.scored:
            return
        question = record.id, hash(json.dumps(record.target, sort_keys=True))
        for metric, value in record.scores.items():
            if (record.task, metric) in self._means and isinstance(value, int | float) and math.isfinite(value):
                self.values.setdefault((record.task, metric), {}).setdefault(question, []).append(float(value))


_kept: ContextVar[dict[tuple[object, ...], Answers] | None] = ContextVar("kept", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Keep what `Answers.read` reads until the end of the block."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _means(tasks: Mapping[str, TaskEntry]) -> Iterator[tuple[str, str]]:
    for task, entry in tasks.items():
        for name, metric in entry["metrics"].items():
            of_items = metric["aggregation"] == Aggregation.items.value and pass_at_k.k_of(name) > 1
            if metric["aggregation"] == Aggregation.mean.value or of_items:
                yield task, name


def compare_all(runs: Mapping[str, Answers]) -> list[Comparison]:
    """Compare every two runs in every metric that both have, with one Holm correction over all of it."""
    return compare_each(runs, ((a, b, *which) for a, b in combinations(runs, 2) for which in runs[a].values))


def compare_each(runs: Mapping[str, Answers], pairs: Iterable[tuple[str, str, str, str]]) -> list[Comparison]:
    """Compare ``pairs`` of runs, each in one task and metric, with one Holm correction over all of it."""
    made = (compare((a, runs[a]), (b, runs[b]), task, metric) for a, b, task, metric in pairs)
    found = [comparison for comparison in made if comparison is not None]
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, corrected, strict=True)]


def compare(a: tuple[str, Answers], b: tuple[str, Answers], task: str, metric: str) -> Comparison | None:
    """Compare two named runs in one metric, uncorrected; None if no question was scored in both.

    An item with several repeats counts once, with their mean.
    """
    left, right = (run.values.get((task, metric), {}) for _, run in (a, b))
    common = [question for question in left if question in right]
    pairs = [(mean(left[question]), mean(right[question])) for question in common]
    if not pairs:
        return None
    shared = {**a[1].clusters.get(task, {}), **b[1].clusters.get(task, {})}
    every = a[1].ids.get(task, set()) | b[1].ids.get(task, set())
    differences = [y - x for x, y in pairs]
    difference, stderr = mean(differences), standard_error(differences)
    values = mean([x for x, _ in pairs]), mean([y for _, y in pairs])
    given = task, metric, a[0], b[0], len(pairs), len(every) - len(pairs), difference
    clusters = Clusters.of(
        (shared.get(question[0], question[0]), value) for question, value in zip(common, differences, strict=True)
    )
    if shared and len(clusters) < len(pairs):
        stderr, p = _of_clusters(clusters, difference)
        return Comparison(*given, stderr, CLUSTERED, p, p, clusters=len(clusters), values=values)
    test, p = _test(pairs, difference, stderr)
    return Comparison(*given, stderr, test, p, p_holm=p, values=values)


def _of_clusters(clusters: Clusters, difference: float) -> tuple[float | None, float]:
    """Return the standard error of the mean of differences that are clustered, and the p-value of Student's t."""
    if len(clusters) < FEWEST_CLUSTERS:
        return (clustered_error(clusters, difference) if len(clusters) > 1 else None), 1.0
    stderr = clustered_error(clusters, difference)
    if stderr <= 1e-12 * max(1.0, abs(difference)):
        signs = [math.fsum(values) for values in clusters.values()]
        return stderr, sign_test(sum(each > 0 for each in signs), sum(each < 0 for each in signs))
    return stderr, t_test(difference / stderr, len(clusters) - 1)


def _test(pairs: Sequence[tuple[float, float]], difference: float, stderr: float | None) -> tuple[str, float]:
    """The sign test for 0/1 values, and where differences do not vary so that t is not defined."""
    binary = all(value in (0.0, 1.0) for pair in pairs for value in pair)
    if binary or stderr is None or stderr <= 1e-12 * max(1.0, abs(difference)):
        gains = sum(y > x for x, y in pairs)
        losses = sum(y < x for x, y in pairs)
        return "sign", sign_test(gains, losses)
    return "t", t_test(difference / stderr, len(pairs) - 1)
