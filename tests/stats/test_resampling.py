"""Resamples of one number of all samples, and of the difference of two runs in it."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from launcher.stats import resampling
from launcher.stats.clusters import Clusters
from launcher.stats.resampling import Statistic, Sums, paired
from launcher.tasks import continuation, ifeval, perplexity

FREE = Statistic(lambda values: math.exp(-math.fsum(values) / len(values)))
SUMMED = continuation.perplexity


def likelihoods(seed: int, count: int = 60, shift: float = 0.0) -> list[float]:
    draw = Random(seed)
    return [-draw.expovariate(0.5) - shift for _ in range(count)]


def alone(values: list) -> Clusters:
    return Clusters.of((str(number), value) for number, value in enumerate(values))


def resamples(*given: Any) -> Any:
    return resampling.resamples(*given)


def swaps(*given: Any) -> Any:
    return resampling.swaps(*given)


WINDOWS = [[f"t{n % 7}", 64, -Random(n).uniform(1, 40), Random(n).randint(1, 30)] for n in range(40)]


@pytest.mark.parametrize(
    ("statistic", "values"),
    [
        (continuation.perplexity, likelihoods(1)),
        (perplexity.perplexity, WINDOWS),
        (perplexity.bits, WINDOWS),
        (ifeval.of_instructions, [[True, False], [True], [False, False, True]]),
    ],
)
def test_sums_give_the_number_of_the_function(statistic: Statistic, values: list) -> None:
    assert statistic.sums is not None
    rows = np.asarray(statistic.sums.rows(values), float)
    assert statistic.sums.value(rows.sum(axis=0, keepdims=True))[0] == pytest.approx(statistic(values), rel=1e-12)


def test_both_ways_of_drawing_agree_with_the_delta_method() -> None:
    values = likelihoods(2, 400)
    expected = SUMMED(values) * stats.sem(values)
    for statistic in (FREE, SUMMED):
        (found,) = resamples(statistic, [alone(values)])
        assert float(np.std(found, ddof=1)) == pytest.approx(expected, rel=0.1)


def test_windows_of_other_lengths_have_no_sums() -> None:
    values = [["a", 64, -3.0, 2], ["b", 128, -4.0, 3]]
    assert perplexity.perplexity.sums is not None
    assert perplexity.perplexity.sums.rows(values) is None
    assert resamples(perplexity.perplexity, [alone(values)]) is None, "and no number either"


@pytest.mark.parametrize("statistic", [FREE, SUMMED])
def test_a_pair_draws_the_same_units_on_both_sides(statistic: Statistic) -> None:
    a = likelihoods(3)
    b = [value + 0.1 for value in a]
    values, told = paired(statistic, alone(a), alone(b))
    assert values[1] / values[0] == pytest.approx(math.exp(-0.1))
    drawn = resamples(statistic, (alone(a), alone(b)))
    assert np.allclose(drawn[1] / drawn[0], math.exp(-0.1))
    assert told is not None
    assert told.p < 0.01
    assert told.high < 0


def test_units_are_drawn_whole() -> None:
    """Items that share a passage vary together: the error is that of as many passages."""
    rows = [value for value in likelihoods(4, 30) for _ in range(5)]
    passages = Clusters.of((f"p{number // 5}", value) for number, value in enumerate(rows))
    apart, together = (np.std(resamples(SUMMED, [each])[0]) for each in (alone(rows), passages))
    assert together / apart == pytest.approx(math.sqrt(5), rel=0.15)


def test_both_ways_of_swapping_give_the_exact_test() -> None:
    """Of 8 units there are 256 swaps, of which all are listed here."""
    a, b = likelihoods(7, 8), likelihoods(8, 8)
    every = [[(x, y) if number >> place & 1 else (y, x) for place, (x, y) in enumerate(zip(a, b, strict=True))]
             for number in range(256)]  # fmt: skip
    differences = [SUMMED([y for _, y in pairs]) - SUMMED([x for x, _ in pairs]) for pairs in every]
    found = SUMMED(b) - SUMMED(a)
    exact = sum(abs(each) >= abs(found) - 1e-9 for each in differences) / 256
    for statistic in (FREE, SUMMED):
        drawn = swaps(statistic, alone(a), alone(b))
        assert np.mean(np.abs(drawn) >= abs(found) - 1e-9) == pytest.approx(exact, abs=0.06)


def test_equal_models_are_told_apart_in_at_most_one_of_twenty_comparisons() -> None:
    count, wrong = 400, 0.0
    for seed in range(count):
        draw = Random(f"equal {seed}")
        a, b = ([value * draw.uniform(0.6, 1.4) for value in likelihoods(seed, 20)] for _ in "ab")
        found = SUMMED(b) - SUMMED(a)
        wrong += np.mean(np.abs(swaps(SUMMED, alone(a), alone(b))) >= abs(found)) < 0.05
    assert wrong / count < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / count)


def test_the_same_values_are_equal_for_sure() -> None:
    values, told = paired(SUMMED, alone(likelihoods(5)), alone(likelihoods(5)))
    assert told is not None
    assert (told.stderr, told.low, told.high, told.p) == (0.0, 0.0, 0.0, 1.0)
    assert values[0] == values[1]


def test_a_number_that_some_resamples_do_not_have_tells_nothing() -> None:
    ratio = Statistic(
        lambda values: 1 / sum(values), Sums(lambda values: [[each] for each in values], lambda s: 1 / s[:, 0])
    )
    with np.errstate(divide="ignore"):
        values, told = paired(ratio, alone([1.0, 0.0, 0.0]), alone([0.0, 1.0, 0.0]))
    assert (values, told) == ((1.0, 1.0), None)
    with pytest.raises(ZeroDivisionError):
        paired(ratio, alone([0.0, 0.0]), alone([1.0, 1.0]))
