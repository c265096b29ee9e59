"""What an evaluation that may stop early draws from: the questions of a task, or of a group as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from launcher.core.errors import UserError
from launcher.core.types import Aggregation, Json, Record, Status
from launcher.stats.betting import Bounds
from launcher.stats.metric import Metric
from launcher.tasks import group
from launcher.tasks.base import Task
from launcher.tasks.group import Group, Weight


@dataclass(frozen=True)
class Population:
    """The questions of ``tasks``, which are drawn together; ``metric`` decides when to stop."""

    name: str
    tasks: tuple[str, ...]
    metric: str


class NotDrawn(UserError):
    """A task or group cannot be decided by a part of its questions."""


def populations(tasks: Mapping[str, Task], groups: Mapping[str, Group]) -> list[Population]:
    """Return a population for each group that is in no other one, and for each task that is in none.

    Raises `NotDrawn` for a metric without bounds: what a question that was not asked may add has none either.
    """
    inside = {member for each in groups.values() for member in each.members}
    whole = [name for name in groups if all(leaf in tasks for leaf in _leaves(name, groups))]  # no harness asks any
    outer = [name for name in whole if name not in inside]
    found = [Population(name, tuple(_leaves(name, groups)), _metric(name, groups, tasks)) for name in outer]
    covered = {task for each in found for task in each.tasks}
    return found + [Population(name, (name,), _metric(name, groups, tasks)) for name in tasks if name not in covered]


def _leaves(name: str, groups: Mapping[str, Group]) -> Iterator[str]:
    if name not in groups:
        yield name
        return
    for member in groups[name].members:
        yield from _leaves(member, groups)


def _metric(name: str, groups: Mapping[str, Group], tasks: Mapping[str, Task]) -> str:
    declared = group.declared(name, groups, tasks)
    first = next(_leaves(name, groups))
    metric = next((each for each in tasks[first].metrics if each.name in declared), None)
    if metric is None:
        raise NotDrawn(f"{name} has no metric before the run")
    if not is_bounded(metric):
        raise NotDrawn(f"{name} is decided by {metric.name}, {_unbounded(metric)}")
    return metric.name


def _unbounded(metric: Metric) -> str:
    if metric.aggregation is Aggregation.corpus:
        return "one number of all samples: no part of the questions bounds it"
    return f"whose values have no bounds, {metric.described_range}: a question that is not asked may add any number"


def is_bounded(metric: Metric) -> bool:
    """Tell whether a metric is the mean over questions of values between two bounds."""
    return metric.aggregation in (Aggregation.mean, Aggregation.items) and None not in metric.range


def weights(population: Population, groups: Mapping[str, Group], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return by what each task's values are multiplied, so that their plain mean is that of the group."""
    if population.name not in groups:
        return {population.name: 1.0}
    whole = sum(sizes[task] for task in population.tasks)
    return {task: share * whole / sizes[task] for task, share in _shares(population.name, groups, sizes).items()}


def _shares(name: str, groups: Mapping[str, Group], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return which share each task has in the mean of a group."""
    if name not in groups:
        return {name: 1.0}
    members = groups[name].members
    counts = {
        member: sum(sizes[task] for task in _leaves(member, groups)) if groups[name].weight is Weight.size else 1
        for member in members
    }
    whole = sum(counts.values())
    return {
        task: counts[member] / whole * share
        for member in members
        for task, share in _shares(member, groups, sizes).items()
    }


@dataclass
class Answers:
    """What the records of a run say of each question, ``<task>/<id>``: the values of its ``repeats`` by metric.

    A repeat without a score in a metric has None.
    """

    tasks: Mapping[str, Task]
    repeats: int
    found: dict[str, dict[int, Mapping[str, Json] | None]] = field(default_factory=dict)

    def note(self, record: Record) -> str:
        """Take a record, in place of an earlier one of its sample; return the question."""
        question = f"{record.task}/{record.id}"
        scores = dict(record.scores) if record.status is Status.scored else None
        self.found.setdefault(question, {})[record.repeat] = scores
        return question

    def is_complete(self, question: str) -> bool:
        """Tell whether each repeat of a question has ended."""
        return len(self.found.get(question, ())) == self.repeats

    def bounds(self, question: str, name: str) -> tuple[float, float]:
        """Return the least and the greatest value of a question in a metric: equal ones where it is known.

        A sample that was not scored, for any reason, has any value of the metric's range.
        """
        metric = self._metrics[question.split("/", 1)[0], name]
        low, high = (float(end) for end in metric.range if end is not None)
        repeats = self.found.get(question, {})
        values = [(scores or {}).get(name) for _, scores in sorted(repeats.items())]
        values += [None] * (self.repeats - len(values))
        if metric.aggregation is Aggregation.items:
            value = None if None in values else _combined(metric, values)
            return (low, high) if value is None else (value, value)
        ends = [(low, high) if value is None else (float(value), float(value)) for value in values]
        return math.fsum(least for least, _ in ends) / len(ends), math.fsum(most for _, most in ends) / len(ends)

    @cached_property
    def _metrics(self) -> dict[tuple[str, str], Metric]:
        return {(name, metric.name): metric for name, task in self.tasks.items() for metric in task.metrics}

    def metric(self, task: str, name: str) -> Metric:
        return self._metrics[task, name]

    def block(self, questions: Sequence[str], name: str, factors: Mapping[str, float]) -> Bounds:
        """Return the bounds of a block's values, each multiplied by the factor of its task."""
        found = []
        for question in questions:
            factor = factors[question.split("/", 1)[0]]
            low, high = self.bounds(question, name)
            found.append((low * factor, high * factor))
        return found


def _combined(metric: Metric, values: Sequence[Json]) -> float | None:
    """Return what a metric makes of the repeats of a question; None where it leaves the question out."""
    assert metric.combine is not None
    try:
        value = metric.combine(list(values))
    except Exception:  # the code of a task; the results say so
        return None
    return None if value is None else float(value)
