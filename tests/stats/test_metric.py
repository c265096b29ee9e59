from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from launcher.core.types import Aggregation, Direction, Interval
from launcher.stats.intervals import wilson
from launcher.stats.metric import Metric

SHARE = Metric("acc")


def values(*numbers):
    return [(str(i), float(n)) for i, n in enumerate(numbers)]


def test_mean_and_standard_error_are_those_of_the_textbook():
    numbers = [0.2, 0.9, 0.4, 0.4, 1.0]
    found = SHARE.result(values(*numbers), 5)
    assert found.value == pytest.approx(statistics.mean(numbers))
    assert found.stderr == pytest.approx(statistics.stdev(numbers) / math.sqrt(5))
    half = 2.7764451051977987 * found.stderr  # scipy.stats.t.ppf(0.975, 4)
    assert (found.ci_low, found.ci_high) == pytest.approx((found.value - half, min(1.0, found.value + half)))
    assert (found.n, found.interval, found.direction) == (5, Interval.t, Direction.higher)


def test_zeros_and_ones_have_wilsons_interval():
    found = SHARE.result(values(*[1] * 8, 0, 0), 10)
    assert (found.value, found.stderr) == (0.8, pytest.approx(math.sqrt(0.16 / 9)))
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))
    assert found.interval is Interval.wilson


def test_all_right_is_not_certain():
    found = SHARE.result(values(*[1] * 10), 10)
    assert (found.value, found.stderr, found.ci_high) == (1.0, 0.0, 1.0)
    assert found.ci_low == pytest.approx(0.722467, abs=1e-6)


def test_a_single_sample_says_little():
    found = SHARE.result(values(1), 1)
    assert found.ci_low == pytest.approx(0.206549, abs=1e-6)
    assert found.stderr > 0.2
    half = SHARE.result(values(0.5), 1)
    assert (half.value, half.interval) == (0.5, Interval.none)
    assert all(map(math.isnan, (half.stderr, half.ci_low, half.ci_high)))


@pytest.mark.parametrize("aggregation", [Aggregation.mean, Aggregation.corpus])
def test_equal_values_other_than_zero_and_one_say_nothing_of_the_spread(aggregation):
    combine = statistics.fmean if aggregation is Aggregation.corpus else None
    found = Metric("f1", aggregation=aggregation, combine=combine).result(values(0.1, 0.1, 0.1), 3)
    assert (found.value, found.interval) == (pytest.approx(0.1), Interval.none)
    assert all(map(math.isnan, (found.stderr, found.ci_low, found.ci_high)))


def test_the_bounds_count_what_was_not_scored_as_the_ends_of_the_range():
    assert [SHARE.result(values(1, 1, 0), 10).low, SHARE.result(values(1, 1, 0), 10).high] == [0.2, 0.9]
    grade = Metric("grade", range=(1.0, 5.0)).result(values(5, 3), 4)
    assert (grade.value, grade.low, grade.high) == (4.0, 2.5, 4.5)


def test_a_range_without_an_end_has_no_bound_there():
    found = Metric("loss", Direction.lower, (0.0, None)).result(values(2, 4), 4)
    assert (found.low, found.direction) == (1.5, Direction.lower)
    assert math.isnan(found.high)
    whole = Metric("loss", Direction.lower, (0.0, None)).result(values(2, 4), 2)
    assert (whole.low, whole.high) == (3.0, 3.0)


def test_repeats_of_one_question_are_no_new_questions():
    once = SHARE.result([(str(i), float(i % 2)) for i in range(20)], 20)
    five_times = SHARE.result([(str(i), float(i % 2)) for i in range(20) for _ in range(5)], 100)
    assert five_times.stderr == pytest.approx(once.stderr)
    assert five_times.ci_low == pytest.approx(once.ci_low, abs=0.02)
    assert five_times.ci_high == pytest.approx(once.ci_high, abs=0.02)
    same = SHARE.result([(str(i), 1.0) for i in range(4) for _ in range(5)], 20)
    assert same.ci_low == pytest.approx(wilson(1.0, 4)[0])


@pytest.mark.parametrize("kind", ["share", "grade"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(kind):
    rng, inside = random.Random(0), 0
    for _ in range(400):
        drawn = [float(rng.random() < 0.3) if kind == "share" else 0.6 * rng.random() for _ in range(40)]
        found = SHARE.result(values(*drawn), 40)
        inside += found.ci_low <= 0.3 <= found.ci_high
    assert 0.91 <= inside / 400 <= 0.99


def perplexity(parts):
    return math.exp(-sum(logprob for logprob, _ in parts) / sum(tokens for _, tokens in parts))


PERPLEXITY = Metric("perplexity", Direction.lower, (1.0, None), Aggregation.corpus, perplexity)


def test_a_metric_of_the_corpus_is_no_mean_and_has_a_bootstrap_interval():
    rng = random.Random(1)
    parts = [(str(i), [-rng.uniform(1, 3) * tokens, tokens]) for i in range(60) for tokens in [rng.randint(5, 50)]]
    found = PERPLEXITY.result(parts, 80)
    assert found.value == pytest.approx(perplexity([part for _, part in parts]))
    assert found.ci_low < found.value < found.ci_high
    assert 0.5 < (found.ci_high - found.ci_low) / (2 * 1.96 * found.stderr) < 1.5
    assert (found.interval, found.aggregation) == (Interval.bootstrap, Aggregation.corpus)
    assert math.isnan(found.low), "what other samples would do to it is not known"
    assert PERPLEXITY.result(parts, 80).ci_low == found.ci_low, "the seed is fixed"


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    mean = Metric("x", range=(None, None), aggregation=Aggregation.corpus, combine=statistics.fmean)
    rng, inside = random.Random(0), 0
    for _ in range(100):
        found = mean.result(values(*(rng.gauss(3, 1) for _ in range(30))), 30)
        inside += found.ci_low <= 3 <= found.ci_high
    assert 85 <= inside <= 100


def test_one_item_or_a_resample_without_a_result_has_no_interval():
    assert PERPLEXITY.result([("a", [-3.0, 2])], 1).interval is Interval.none
    empty = [("a", [-3.0, 2]), ("b", [0.0, 0])]  # two times b has no tokens
    found = PERPLEXITY.result(empty, 2)
    assert (found.value, found.interval) == (pytest.approx(math.exp(1.5)), Interval.none)
    with pytest.raises(ZeroDivisionError):
        PERPLEXITY.result([("b", [0.0, 0])], 1)


def test_repeats_of_an_item_may_be_combined_before_the_mean():
    any_right = Metric("pass@2", aggregation=Aggregation.items, combine=lambda repeats: float(any(repeats)))
    found = any_right.result([("a", 0.0), ("a", 1.0), ("b", 0.0), ("b", 0.0), ("c", 1.0), ("c", 1.0)], 6)
    assert found.value == pytest.approx(2 / 3)
    assert (found.n, found.interval, found.aggregation) == (6, Interval.wilson, Aggregation.items)
    assert found.ci_low == pytest.approx(wilson(2 / 3, 3)[0])


def test_a_metric_may_say_that_no_interval_is_known():
    found = Metric("median", interval=Interval.none).result(values(0, 1, 1), 3)
    assert (found.interval, found.value) == (Interval.none, pytest.approx(2 / 3))
    assert math.isnan(found.stderr)


@pytest.mark.parametrize("value", ["1", None, True, math.nan, math.inf, [1.0], -0.1, 1.1])
def test_a_value_that_cannot_enter_a_mean_is_named(value):
    assert SHARE.fault(value).startswith(f"acc is {value!r}, ")
    assert SHARE.fault(0.5) is None
    assert PERPLEXITY.fault(value) is None


def test_combine_belongs_to_its_aggregations():
    for wrong in ({"combine": sum}, {"aggregation": Aggregation.corpus}):
        with pytest.raises(ValueError, match="metric x: combine is for"):
            Metric("x", **wrong)


@pytest.mark.parametrize("kind", [Interval.wilson, Interval.t, Interval.bootstrap])
def test_no_interval_can_be_asked_for_that_may_be_wrong_for_the_values(kind):
    with pytest.raises(ValueError, match=r"metric x: interval is .*, expected None or Interval\.none"):
        Metric("x", interval=kind)


def test_a_range_has_a_low_and_a_high_end():
    with pytest.raises(ValueError, match=r"metric x: range is \(1, 0\), expected \(low, high\) with low < high"):
        Metric("x", range=(1, 0))
    ends: Any = [0, 5]
    assert {Metric("x", range=ends)} == {Metric("x", range=(0, 5))}, "a list is as good as a tuple"


def test_rounding_takes_no_value_out_of_its_range():
    assert SHARE.fault(1.0000000000000002) is None
    assert SHARE.fault(-1e-17) is None
    assert SHARE.fault(1.000001) == "acc is 1.000001, outside of its range [0, 1]"


def test_what_combine_gives_may_be_any_number_in_the_range():
    passed = Metric("pass@2", aggregation=Aggregation.items, combine=any)
    assert passed.result([("a", False), ("a", True), ("b", False)], 3).value == 0.5
    with pytest.raises(ValueError, match=r"perplexity is 0\.5, outside of its range \[1, unbounded\]"):
        Metric("perplexity", Direction.lower, (1.0, None), Aggregation.corpus, lambda _: 0.5).result([("a", 1)], 1)


def test_a_resample_that_ends_in_any_error_leaves_no_interval():
    def combine(parts):
        return dict.fromkeys(parts, 1.0)["a"]

    found = Metric("x", aggregation=Aggregation.corpus, combine=combine).result([("1", "a"), ("2", "b")], 2)
    assert (found.value, found.interval) == (1.0, Interval.none)
