from __future__ import annotations

import math
import random

import pytest

from launcher.core.types import Aggregation, Direction, Interval
from launcher.stats.group import pooled
from launcher.stats.intervals import wilson
from launcher.stats.metric import Metric


def share(right, count, total=None):
    return Metric("acc").result([(str(i), float(i < right)) for i in range(count)], total or count)


def test_by_size_it_is_the_mean_over_all_samples():
    found = pooled([(40, share(30, 40)), (10, share(5, 10))])
    assert found.value == pytest.approx(35 / 50)
    assert (found.n, found.aggregation, found.interval) == (50, Aggregation.group, Interval.wilson)
    parts = [(40, 30 / 40, 40), (10, 5 / 10, 10)]
    variance = sum((n / 50) ** 2 * p * (1 - p) / (n - 1) for n, p, _ in parts)
    assert found.stderr == pytest.approx(math.sqrt(variance))
    assert found.ci_low < found.value < found.ci_high


def test_unweighted_it_is_the_mean_of_the_members():
    assert pooled([(1, share(30, 40)), (1, share(5, 10))]).value == pytest.approx((0.75 + 0.5) / 2)


def test_one_member_is_itself():
    one = share(30, 40)
    found = pooled([(7, one)])
    assert (found.value, found.stderr) == (one.value, pytest.approx(one.stderr))
    assert (found.ci_low, found.ci_high) == pytest.approx((one.ci_low, one.ci_high))


def test_a_group_of_repeats_is_no_surer_than_its_member():
    """Repeats of an item are no new items, also in a group: n is 20, and the items are two."""
    graded = [(str(i // 10), 0.1 * (i // 10) + 0.001 * i) for i in range(20)]
    right = [(str(i // 10), float(i < 12)) for i in range(20)]
    for metric, values in ((Metric("grade", range=(None, None)), graded), (Metric("acc"), right)):
        one = metric.result(values, 20)
        for found in (pooled([(1, one)]), pooled([(1, pooled([(1, one)]))])):
            assert (found.ci_low, found.ci_high) == pytest.approx((one.ci_low, one.ci_high))


def test_a_group_in_a_group_changes_no_interval():
    a, b, c = share(30, 40), share(5, 10), share(20, 20)
    nested = pooled([(50, pooled([(40, a), (10, b)])), (20, c)])
    flat = pooled([(40, a), (10, b), (20, c)])
    assert nested.value == pytest.approx(flat.value)
    assert (nested.ci_low, nested.ci_high) == pytest.approx((flat.ci_low, flat.ci_high), abs=0.01)


def test_a_small_member_of_equal_weight_keeps_its_part_in_the_uncertainty():
    """2 of 2 right may be a task of which one half is right: of the group, that is a quarter."""
    found = pooled([(1, share(1000, 1000)), (1, share(2, 2))])
    assert (found.value, found.ci_high) == (1.0, 1.0)
    assert found.ci_low < 0.7


def test_members_with_intervals_of_several_kinds_have_one_from_theirs():
    graded = Metric("acc").result([("a", 0.25), ("b", 0.5), ("c", 0.75)], 3)
    right = share(3, 4)
    found = pooled([(3, graded), (1, right)])
    below = math.hypot(0.75 * (graded.value - graded.ci_low), 0.25 * (right.value - right.ci_low))
    above = math.hypot(0.75 * (graded.ci_high - graded.value), 0.25 * (right.ci_high - right.value))
    assert (found.value - found.ci_low, found.ci_high - found.value) == pytest.approx((below, above))
    assert found.interval is Interval.mover


def test_all_right_is_not_certain():
    found = pooled([(20, share(20, 20)), (20, share(20, 20))])
    assert (found.value, found.stderr) == (1.0, 0.0)
    assert found.ci_low == pytest.approx(wilson(1.0, 40)[0])


def test_the_bounds_are_those_of_the_members():
    found = pooled([(20, share(5, 10, total=20)), (20, share(20, 20))])
    assert (found.low, found.high) == ((0.25 + 1) / 2, (0.75 + 1) / 2)


def test_a_member_without_an_interval_leaves_none():
    single = Metric("acc").result([("a", 0.5)], 1)
    assert pooled([(1, single), (1, share(3, 4))]).interval is Interval.none


@pytest.mark.parametrize(
    ("means", "sizes"), [((0.9, 0.5), (5, 500)), ((0.6, 0.99), (5, 500)), ((0.97,) * 10, (10,) * 10)]
)
def test_members_of_equal_weight_and_any_size_cover_the_truth(means, sizes):
    rng, inside, truth = random.Random(3), 0, sum(means) / len(means)
    for _ in range(300):
        drawn = [share(sum(rng.random() < mean for _ in range(n)), n) for mean, n in zip(means, sizes, strict=True)]
        found = pooled([(1, result) for result in drawn])
        inside += found.ci_low <= truth <= found.ci_high
    assert inside / 300 >= 0.9


@pytest.mark.parametrize("kind", ["share", "grade"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(kind):
    rng, inside, metric = random.Random(2), 0, Metric("x", Direction.lower, (0.0, 2.0))
    for _ in range(300):
        parts = []
        for mean, n in ((0.3, 30), (0.6, 50)):
            drawn = [float(rng.random() < mean) if kind == "share" else 2 * mean * rng.random() for _ in range(n)]
            parts.append((n, metric.result([(str(i), value) for i, value in enumerate(drawn)], n)))
        found = pooled(parts)
        inside += found.ci_low <= (30 * 0.3 + 50 * 0.6) / 80 <= found.ci_high
    assert 0.90 <= inside / 300 <= 0.99
