from __future__ import annotations

import pytest

from launcher.stats import distribution
from launcher.stats.distribution import MOST_EXACT, Distribution
from launcher.stats.quantiles import quantile

SHARES = (0.0, 0.5, 0.9, 0.99, 1.0)


def made(values):
    found = Distribution()
    for value in values:
        found.add(value)
    return found


def test_of_few_values_quantiles_are_exact():
    values = [(number * 7919) % 1000 / 7 for number in range(1000)]
    found = made(values)
    assert found.quantiles(SHARES) == [quantile(sorted(values), share) for share in SHARES]
    assert (found.count, found.least, found.most) == (1000, 0.0, max(values))
    assert found.weights() == [(value, 1) for value in sorted(values)]


def test_of_many_values_quantiles_are_within_one_percent_and_memory_is_bounded():
    values = [1e-4 * 1.0003 ** ((number * 7919) % (3 * MOST_EXACT)) for number in range(3 * MOST_EXACT)]
    found, ordered = made(values), sorted(values)
    assert found.quantiles(SHARES) == [pytest.approx(quantile(ordered, share), rel=0.0105) for share in SHARES]
    assert (found.least, found.most, found.count) == (ordered[0], ordered[-1], len(values))
    assert sum(count for _, count in found.weights()) == len(values)
    assert [value for value, _ in found.weights()] == sorted(value for value, _ in found.weights())
    assert not found._values
    assert len(found.weights()) < 1200


def test_nothing_has_no_quantiles():
    assert (Distribution().quantiles(SHARES), Distribution().weights()) == ([], [])
    assert distribution.MOST_EXACT > 1000
