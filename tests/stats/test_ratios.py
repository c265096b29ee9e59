"""Ratios of measured rates, and what is known of them."""

from __future__ import annotations

import math
import random

import pytest

from launcher.stats.ratios import ratio


def test_a_ratio_is_that_of_geometric_means() -> None:
    found = ratio([2.0, 8.0], [1.0, 1.0], paired=False)
    assert found is not None
    assert found.value == pytest.approx(4.0)


def test_paired_values_that_drift_together_have_a_narrow_interval() -> None:
    drifting = [10.0, 20.0, 15.0, 40.0]
    over = [2 * value * factor for value, factor in zip(drifting, (1.01, 0.99, 1.0, 1.0), strict=True)]
    paired, apart = ratio(over, drifting, paired=True), ratio(over, drifting, paired=False)
    assert paired is not None
    assert apart is not None
    assert paired.is_sure
    assert not apart.is_sure
    assert paired.low is not None
    assert paired.high is not None
    assert 1.95 < paired.low < 2.0 < paired.high < 2.05


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_truth_about_95_times_in_100(paired: bool) -> None:
    draw, inside, times = random.Random(7), 0, 400
    for _ in range(times):
        shared = [draw.gauss(0, 0.3 if paired else 0) for _ in range(4)]
        over = [1.5 * math.exp(common + draw.gauss(0, 0.05)) for common in shared]
        under = [math.exp(common + draw.gauss(0, 0.05)) for common in shared]
        found = ratio(over, under, paired=paired)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 1.5 <= found.high
    assert 0.91 <= inside / times <= 0.99


@pytest.mark.parametrize("values", [([], [1.0]), ([1.0], []), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_nothing_is_said_of_what_was_not_measured(values: tuple[list[float], list[float]]) -> None:
    assert ratio(*values, paired=False) is None


@pytest.mark.parametrize("paired", [True, False])
def test_one_value_of_each_has_no_interval(paired: bool) -> None:
    found = ratio([3.0], [2.0], paired=paired)
    assert found is not None
    assert (found.value, found.low, found.is_sure) == (pytest.approx(1.5), None, False)
