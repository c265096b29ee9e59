"""Groups of tasks, each summarized as one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from launcher.core.errors import UserError
from launcher.core.reasons import Reasons
from launcher.core.types import NOT_NEEDED, GroupResult, MetricResult, TaskResult
from launcher.stats.group import pooled
from launcher.tasks.base import Task


class Weight(Enum):
    """What a member counts in its group: ``size`` its number of samples, ``equal`` as much as any other."""

    size = "size"
    equal = "equal"


@dataclass
class Group:
    """A group of tasks.

    ``members`` are tasks of the run, or further groups. The group has every metric that all of its members have: the
    mean of theirs, each with its ``weight``.
    """

    members: list[str] = field(default_factory=list)
    weight: Weight = Weight.size


def check(groups: Mapping[str, Group], tasks: Mapping[str, Task]) -> None:
    """Raise `UserError` for a group that cannot be summed up."""
    for name, group in groups.items():
        if not name.strip():
            raise UserError(f"groups: {name!r} cannot be the name of a group; expected a text")
        if name in tasks:
            raise UserError(f"groups.{name}: a task has this name; choose another one")
        if not group.members:
            raise UserError(f"groups.{name}.members is empty; name at least one task or group")
        for member in group.members:
            if member not in tasks and member not in groups:
                known = ", ".join([*tasks, *(other for other in groups if other != name)])
                raise UserError(f"groups.{name}.members: there is no task or group '{member}'; expected one of {known}")
        twice = [leaf for leaf, times in Counter(_leaves(name, groups)).items() if times > 1]
        if twice:
            raise UserError(f"groups.{name}.members: '{twice[0]}' is in it more than once; name it once")
        if not metrics(name, groups, tasks):
            raise UserError(f"groups.{name}.members: they have no metric in common; put tasks of one kind together")
        _check_kinds(name, groups, tasks)


def declared(name: str, groups: Mapping[str, Group], tasks: Mapping[str, Task]) -> list[str]:
    """Return the metrics of a task, or those that a group sums up."""
    return metrics(name, groups, tasks) if name in groups else [metric.name for metric in tasks[name].metrics]


def metrics(name: str, groups: Mapping[str, Group], tasks: Mapping[str, Task]) -> list[str]:
    """Return the metrics that all tasks of a group have, in the order of the first one."""
    declared = [[metric.name for metric in tasks[leaf].metrics] for leaf in _leaves(name, groups)]
    return [metric for metric in declared[0] if all(metric in others for others in declared)]


def _check_kinds(name: str, groups: Mapping[str, Group], tasks: Mapping[str, Task]) -> None:
    """Raise `UserError` if a metric has another direction or range in another task: its mean means nothing."""
    kinds: dict[str, tuple[str, str]] = {}
    common = metrics(name, groups, tasks)
    for leaf in _leaves(name, groups):
        for metric in (metric for metric in tasks[leaf].metrics if metric.name in common):
            kind = f"{metric.direction.value} is better, range {metric.described_range}"
            first, known = kinds.setdefault(metric.name, (leaf, kind))
            if kind != known:
                raise UserError(
                    f"groups.{name}.members: {metric.name} of '{first}' ({known}) is not that of '{leaf}' ({kind}); "
                    "put tasks of one kind together"
                )


def aggregate(
    groups: Mapping[str, Group], tasks: Mapping[str, Task], results: Mapping[str, TaskResult]
) -> dict[str, GroupResult]:
    """Return the result of each group of which a member has one."""
    found: dict[str, GroupResult] = {}
    for name in _inner_first(groups):
        members = {m: found[m].result if m in found else results.get(m) for m in groups[name].members}
        known = {member: result for member, result in members.items() if result is not None}
        if known:
            found[name] = _result(groups[name], known, metrics(name, groups, tasks))
    return {name: found[name] for name in groups if name in found}


def _result(group: Group, members: Mapping[str, TaskResult], names: Iterable[str]) -> GroupResult:
    made: dict[str, MetricResult] = {}
    missing = [member for member in group.members if member not in members or not members[member].metrics]
    for name in () if missing else names:
        if all(name in result.metrics for result in members.values()):
            weights = {m: _size(r) if group.weight is Weight.size else 1 for m, r in members.items()}
            made[name] = pooled([(weights[member], result.metrics[name]) for member, result in members.items()])
    return GroupResult(tuple(group.members), group.weight.value, tuple(missing), _summed(members.values(), made))


def _size(result: TaskResult) -> int:
    return result.coverage["total"] + result.coverage.get(NOT_NEEDED, 0)


def _summed(results: Iterable[TaskResult], made: Mapping[str, MetricResult]) -> TaskResult:
    coverage: Counter[str] = Counter()
    notes = Reasons()
    reasons: dict[str, Reasons] = {}
    retried: dict[str, Counter[str]] = {}
    for result in results:
        coverage.update(result.coverage)
        _count(result.notes, notes)
        for kind, counts in result.retried.items():
            retried.setdefault(kind, Counter()).update(counts)
        for status, said in result.reasons.items():
            _count(said, reasons.setdefault(status, Reasons()))
    said_of = {status: said.common() for status, said in reasons.items()}
    return TaskResult(
        made, dict(coverage), said_of, notes.common(None), {kind: dict(counts) for kind, counts in retried.items()}
    )


def _count(said: Mapping[str, int], reasons: Reasons) -> None:
    for reason, times in said.items():
        reasons.add(reason, times)


def _leaves(name: str, groups: Mapping[str, Group], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the tasks of a group and of the groups in it. Raises `UserError` for a group that contains itself."""
    if name in above:
        raise UserError(f"groups.{name}.members: the group contains itself, through {' and '.join(above)}")
    if name not in groups:
        yield name
        return
    for member in groups[name].members:
        yield from _leaves(member, groups, (*above, name))


def _inner_first(groups: Mapping[str, Group]) -> list[str]:
    """Return the groups, each after those that it contains."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for member in groups[name].members:
            if member in groups and member not in order:
                visit(member)
        order[name] = None

    for name in groups:
        visit(name)
    return list(order)
