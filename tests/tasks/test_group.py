from __future__ import annotations

from typing import ClassVar

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Direction, TaskResult
from launcher.settings.evaluate import Evaluate
from launcher.stats.metric import Metric
from launcher.tasks.base import check_tasks
from launcher.tasks.compare import Match
from launcher.tasks.generation import Generation
from launcher.tasks.group import Group, Weight, aggregate, check, metrics
from launcher.tasks.multiple_choice import MultipleChoice

TASKS = {"a": Generation(), "b": Generation(), "c": MultipleChoice(), "n": Generation(match=Match.numeric)}


def result(right, count, lost=0, **notes):
    found = Metric("exact_match").result([(str(i), float(i < right)) for i in range(count)], count + lost)
    coverage = {"scored": count, "failed": lost, "total": count + lost}
    reasons = {"failed": {"gone": lost}} if lost else {}
    return TaskResult({"exact_match": found}, coverage, reasons, notes)


RESULTS = {"a": result(6, 8, odd=1), "b": result(1, 2, lost=2, odd=2)}


def test_a_group_by_size_is_the_mean_over_the_samples_of_its_tasks():
    found = aggregate({"g": Group(["a", "b"])}, TASKS, {"a": result(6, 8), "b": result(1, 2)})["g"]
    assert found.result.metrics["exact_match"].value == pytest.approx(7 / 10)
    assert (found.members, found.weight, found.missing) == (("a", "b"), "size", ())


def test_samples_that_were_lost_count_for_the_size():
    found = aggregate({"g": Group(["a", "b"])}, TASKS, RESULTS)["g"].result
    assert found.metrics["exact_match"].value == pytest.approx((8 * 6 / 8 + 4 * 1 / 2) / 12)
    assert found.coverage == {"scored": 10, "failed": 2, "total": 12}
    assert (found.reasons, found.notes) == ({"failed": {"gone": 2}}, {"odd": 3})


def test_members_may_count_the_same():
    found = aggregate({"g": Group(["a", "b"], Weight.equal)}, TASKS, RESULTS)["g"].result
    assert found.metrics["exact_match"].value == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_groups_may_contain_groups_in_any_order():
    groups = {"all": Group(["inner", "b"], Weight.equal), "inner": Group(["a"])}
    found = aggregate(groups, TASKS, RESULTS)
    assert list(found) == ["all", "inner"]
    assert found["all"].result.metrics["exact_match"].value == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_a_group_has_no_metric_while_a_member_has_none():
    nothing = TaskResult({}, {"scored": 0, "not_asked": 4, "total": 4})
    for results in ({"a": RESULTS["a"], "b": nothing}, {"a": RESULTS["a"]}):
        found = aggregate({"g": Group(["a", "b"]), "top": Group(["g"])}, TASKS, results)
        assert (dict(found["g"].result.metrics), found["g"].missing) == ({}, ("b",))
        assert found["top"].missing == ("g",)
    assert aggregate({"g": Group(["a", "b"])}, TASKS, {}) == {}


def test_a_group_has_the_metrics_that_all_its_tasks_declare():
    class More(Generation):
        metrics = (Metric("f1"), Metric("exact_match"))

    assert metrics("g", {"g": Group(["x", "a"])}, {"x": More(), "a": Generation()}) == ["exact_match"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": Group(["b"])}, "groups.a: a task has this name"),
        ({" ": Group(["a"])}, "groups: ' ' cannot be the name of a group"),
        ({"g": Group([])}, "groups.g.members is empty"),
        ({"g": Group(["a", "x"])}, "groups.g.members: there is no task or group 'x'; expected one of a, b, c, n"),
        ({"g": Group(["a", "a"])}, "groups.g.members: 'a' is in it more than once"),
        ({"g": Group(["a", "h"]), "h": Group(["b", "a"])}, "groups.g.members: 'a' is in it more than once"),
        ({"g": Group(["h"]), "h": Group(["g"])}, "groups.g.members: the group contains itself, through g and h"),
        ({"g": Group(["a", "c"])}, "groups.g.members: they have no metric in common"),
        ({"g": Group(["a", "n"])}, "groups.g.members: they have no metric in common"),
    ],
)
def test_a_group_that_cannot_be_summed_up_is_refused(groups, words):
    with pytest.raises(UserError) as refused:
        check(groups, TASKS)
    assert words in str(refused.value)


@pytest.mark.parametrize("other", [Metric("grade", Direction.lower), Metric("grade", range=(0.0, 100.0))])
def test_a_metric_of_one_name_and_several_kinds_has_no_mean(other):
    class Graded(Generation):
        metrics = (Metric("grade"),)

    class Other(Generation):
        metrics = (other,)

    with pytest.raises(
        UserError, match=r"groups\.g\.members: grade of 'a' \(higher is better, range \[0, 1\]\) is not"
    ):
        check({"g": Group(["a", "h"]), "h": Group(["b"])}, {"a": Graded(), "b": Other()})


class Raises(Generation):
    @property
    def metrics(self):
        return (Metric("x", range=(1.0, 0.0)),)


class Declares(Generation):
    names: ClassVar[tuple[str, ...]] = ()

    @property
    def metrics(self):
        return tuple(map(Metric, self.names))


class Twice(Declares):
    names = ("x", "y", "x")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Raises(), "tasks.t: its metrics cannot be used: ValueError: metric x: range is"),
        (Declares(), "tasks.t: Declares declares no metric; a task needs at least one"),
        (Twice(), "tasks.t: Twice declares the metric 'x' more than once"),
    ],
)
def test_a_task_whose_metrics_cannot_be_used_is_refused(task, words):
    with pytest.raises(UserError) as refused:
        check_tasks({"t": task}, Evaluate())
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize("name", ["p/q", "", " "])
def test_a_name_that_no_key_of_a_sample_can_hold_is_refused(name):
    with pytest.raises(UserError, match=f"tasks: '{name}' cannot be the name of a task; expected a text without '/'"):
        check_tasks({name: Generation()}, Evaluate())


def test_reasons_of_members_that_differ_in_numbers_only_are_one():
    long = [f"HTTP 400: {n} tokens are too many" for n in range(100, 150)]
    members = {
        f"t{n}": TaskResult({}, {"total": 2, "refused": 2}, {"refused": {said: 2}}) for n, said in enumerate(long)
    }
    tasks = dict.fromkeys(members, Generation())
    found = aggregate({"g": Group(list(members))}, tasks, members)["g"].result
    assert found.reasons == {"refused": {long[0]: 100}}
