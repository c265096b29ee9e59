"""Values in arrays give what values in lists by item give, to the last digit."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.types import Aggregation, Direction
from launcher.stats.clusters import Clusters
from launcher.stats.intervals import bootstrap, clustered_error
from launcher.stats.metric import Metric
from launcher.stats.quantiles import quantile
from launcher.stats.resampling import RESAMPLES, Statistic

NUMBERS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0, 1]))
PAIRS = st.lists(st.tuples(st.sampled_from("abcdef"), NUMBERS), min_size=1, max_size=30)


def by_item(pairs):
    found = defaultdict(list)
    for item, value in pairs:
        found[item].append(value)
    return list(found.values())


@given(PAIRS)
def test_items_keep_their_values_and_their_order(pairs):
    made, expected = Clusters.of(pairs), by_item(pairs)
    assert [list(values) for values in made.values()] == expected
    assert (len(made), made.count) == (len(expected), len(pairs))
    numbers = [0, len(expected) - 1, 0]
    assert made.picker()(numbers) == [value for number in numbers for value in expected[number]]


@given(PAIRS)
def test_the_error_is_that_of_the_formula(pairs):
    expected, count = by_item(pairs), len(by_item(pairs))
    mean = math.fsum(value for _, value in pairs) / len(pairs)
    off = [math.fsum(value - mean for value in values) for values in expected]
    error = math.sqrt(math.fsum(o * o for o in off) * count / (count - 1)) / len(pairs) if count > 1 else 0.0
    assert clustered_error(Clusters.of(pairs), mean) == error


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_bootstrap_draws_items_as_lists_of_them_would_be_drawn(repeats):
    rng = random.Random(1)
    pairs = [(str(item), rng.random()) for item in range(40) for _ in range(repeats)]
    draw, items = random.Random(0), by_item(pairs)
    drawn = (draw.choices(items, k=len(items)) for _ in range(RESAMPLES))
    values = sorted(math.fsum(value for item in each for value in item) for each in drawn)
    found = bootstrap(Clusters.of(pairs), Statistic(math.fsum))
    assert found.stderr == statistics.stdev(values)
    assert (found.low, found.high) == (quantile(values, 0.025), quantile(values, 0.975))


def test_a_million_values_take_eight_bytes_each():
    made = Clusters()
    for number in range(100_000):
        made.add(float(number % 2), new_item=True)
    assert made.flat.__sizeof__() < 9.1 * 100_000
    assert Metric("acc").of(made, 100_000).value == 0.5


def test_values_of_any_kind_stay_as_they_are():
    pairs = [("a", 1.5), ("a", [1, "x"]), ("b", True), ("c", 2)]
    assert [list(values) for values in Clusters.of(pairs).values()] == [[1.5, [1, "x"]], [True], [2]]
    assert [type(value) for value in Clusters.of(pairs).flat] == [float, list, bool, int]
    first = Metric("first", Direction.higher, (None, None), Aggregation.corpus, lambda values: values[0])
    assert first.result([("a", 7.0), ("b", 1), ("a", 2)], 3).value == 7.0
