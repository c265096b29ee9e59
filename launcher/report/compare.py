"""Paired comparison of two runs on the samples that both scored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Aggregation, Json, Record, Status
from launcher.report.schema import TaskEntry
from launcher.stats.clusters import Clusters
from launcher.stats.intervals import clustered_error
from launcher.stats.paired import ALPHA, holm, mean, sign_test, standard_error, t_test
from launcher.stats.resampling import Statistic, paired
from launcher.tasks import corpus
from launcher.tasks.code import pass_at_k

CLUSTERED = "clustered t"
BOOTSTRAP = "bootstrap"
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


@dataclass(frozen=True)
class ResampledComparison(Comparison):
    """A `Comparison` in one number of all samples: ``test`` is ``bootstrap``, over questions or passages.

    ``low`` and ``high`` are the 95 % interval of the difference. Fewer than `FEWEST_CLUSTERS` questions or passages
    tell nothing.
    """

    low: float | None
    high: float | None


@dataclass
class Answers:
    """The scores of a run: the ids of every task, and by task and metric the values of each id's repeats.

    A value's key holds the item's target too, so that equal ids of different items make no pair. ``parts`` are the
    values of metrics that are one number of all samples, which ``statistics`` computes. ``untested`` says why there are
    none of a metric.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[tuple[str, int], list[float]]] = field(default_factory=dict)
    clusters: dict[str, dict[str, str]] = field(default_factory=dict)
    """By task, the cluster of each id that has one."""
    categories: dict[str, dict[str, str]] = field(default_factory=dict)
    """By task, the category of each id that has one."""
    parts: dict[tuple[str, str], dict[tuple[str, int], list[Json]]] = field(default_factory=dict)
    statistics: Mapping[tuple[str, str], Statistic] = field(default_factory=dict)
    untested: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _means: set[tuple[str, str]] = field(default_factory=set)
    _by_id: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: Path, tasks: Mapping[str, TaskEntry]) -> Answers:
        """Read the samples of a run folder, with the values of the metrics of ``tasks``.

        Where a metric combines the repeats of an item, as pass@k does, there is one value for each item. Within
        `reading_once`, a file is read once for the same metrics. Raises `ResumeError` for a damaged line.
        """
        known = _kept.get()
        if known is None:
            return cls._read(folder, tasks)
        named = (((task, name), tuple(map(str, (metric["aggregation"], metric.get("function")))))
                 for task, entry in tasks.items() for name, metric in entry["metrics"].items())  # fmt: skip
        key = folder.resolve(), RunFolder(folder).samples_version(), frozenset(named)
        if key not in known:
            known[key] = cls._read(folder, tasks)
        return known[key]

    @classmethod
    def _read(cls, folder: Path, tasks: Mapping[str, TaskEntry]) -> Answers:
        statistics, untested = _statistics(tasks)
        answers = cls(_means=set(_of(tasks, Aggregation.mean)), statistics=statistics, untested=untested)
        for record in RunFolder(folder).records():
            answers._add(record)
        for key in set(_of(tasks, Aggregation.items)) & statistics.keys():
            answers.values[key] = _combined(statistics[key], answers.parts.pop(key, {}))
        return answers

    def by_id(self, task: str, metric: str) -> dict[str, list[float]]:
        """Return the values of a metric by the id of the question alone, computed once."""
        key = task, metric
        if key not in self._by_id:
            self._by_id[key] = {question[0]: values for question, values in self.values.get(key, {}).items()}
        return self._by_id[key]

    def by_category(self, task: str, metric: str, names: Mapping[str, str]) -> dict[str, Answers]:
        """Return the answers of each category in one metric; ``names`` has the category of each id."""
        made: dict[str, Answers] = {}

        def of(name: str) -> Answers:
            new = Answers(clusters=self.clusters, statistics=self.statistics)
            return made.setdefault(name, new)

        for each in self.ids.get(task, ()):
            if each in names:
                of(names[each]).ids.setdefault(task, set()).add(each)
        for mine, target in ((self.values, "values"), (self.parts, "parts")):
            for question, values in mine.get((task, metric), {}).items():
                if question[0] in names:
                    getattr(of(names[question[0]]), target).setdefault((task, metric), {})[question] = values
        return made

    def _add(self, record: Record) -> None:
        self.ids.setdefault(record.task, set()).add(record.id)
        if record.cluster is not None:
            self.clusters.setdefault(record.task, {})[record.id] = record.cluster
        if record.category is not None:
            self.categories.setdefault(record.task, {})[record.id] = record.category
        if record.status is not Status.scored:
            return
        question = record.id, hash(json.dumps(record.target, sort_keys=True))
        for metric, value in record.scores.items():
            key = record.task, metric
            if key in self._means and isinstance(value, int | float) and math.isfinite(value):
                self.values.setdefault(key, {}).setdefault(question, []).append(float(value))
            elif key in self.statistics:
                self.parts.setdefault(key, {}).setdefault(question, []).append(value)


_kept: ContextVar[dict[tuple[object, ...], Answers] | None] = ContextVar("kept", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Keep what `Answers.read` reads until the end of the block."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _of(tasks: Mapping[str, TaskEntry], aggregation: Aggregation) -> Iterator[tuple[str, str]]:
    for task, entry in tasks.items():
        for name, metric in entry["metrics"].items():
            if metric["aggregation"] == aggregation.value:
                yield task, name


def _statistics(
    tasks: Mapping[str, TaskEntry],
) -> tuple[dict[tuple[str, str], Statistic], dict[tuple[str, str], str]]:
    """Return the function of each metric that is no mean of samples, and why that of others is not known."""
    found: dict[tuple[str, str], Statistic] = {}
    unknown: dict[tuple[str, str], str] = {}
    for task, name in (*_of(tasks, Aggregation.items), *_of(tasks, Aggregation.corpus)):
        try:
            found[task, name] = _statistic(tasks[task], name)
        except UserError as error:
            unknown[task, name] = str(error)
    return found, unknown


def _statistic(entry: TaskEntry, name: str) -> Statistic:
    """Return the function of a metric. Raises `UserError` with the reason where it is not known."""
    if k := pass_at_k.k_of(name):
        return Statistic(partial(pass_at_k.estimate, k=k))
    function = entry["metrics"][name].get("function")
    if entry.get("harness"):
        raise UserError("the harness gave one number of all samples")
    if function is None:
        raise UserError("it is one number of all samples, and the results do not name its function")
    return corpus.statistic(function)


def _combined(
    statistic: Statistic, parts: Mapping[tuple[str, int], Sequence[Json]]
) -> dict[tuple[str, int], list[float]]:
    """Return the value of each item that has one."""
    made = {question: statistic(values) for question, values in parts.items()}
    return {question: [float(value)] for question, value in made.items() if value is not None}


def compare_all(runs: Mapping[str, Answers]) -> list[Comparison]:
    """Compare every two runs in every metric that both have, with one Holm correction over all of it."""
    return compare_each(
        runs, ((a, b, *which) for a, b in combinations(runs, 2) for which in (*runs[a].values, *runs[a].parts))
    )


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
    if (task, metric) in a[1].parts:
        return _resampled(a, b, task, metric)
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


def _resampled(a: tuple[str, Answers], b: tuple[str, Answers], task: str, metric: str) -> Comparison | None:
    """Compare two runs in one number of all samples; None where there is no common question, or the number fails."""
    key = task, metric
    left, right = (run.parts.get(key, {}) for _, run in (a, b))
    common = [question for question in left if question in right]
    statistic = b[1].statistics.get(key)
    if not common or statistic is None:
        return None
    shared = {**a[1].clusters.get(task, {}), **b[1].clusters.get(task, {})}
    sides = [
        Clusters.of(
            (shared.get(question[0], f"/{question[0]}"), value) for question in common for value in run[question]
        )
        for run in (left, right)
    ]
    units = len(sides[0])
    try:
        values, found = paired(statistic, *sides)
    except Exception:  # the code of a task, for fewer samples than those of the run
        return None
    difference, told = values[1] - values[0], found if units >= FEWEST_CLUSTERS else None
    every = a[1].ids.get(task, set()) | b[1].ids.get(task, set())
    stderr, low, high, p = (None, None, None, 1.0) if told is None else (told.stderr, told.low, told.high, told.p)
    return ResampledComparison(
        task, metric, a[0], b[0], len(common), len(every) - len(common), difference, stderr, BOOTSTRAP, p, p,
        low, high, clusters=units if units < len(common) else None, values=values,
    )  # fmt: skip


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
