"""Confidence sequences and tests that may be looked at any time hold their level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from launcher.stats.betting import ALPHA, Beaten, ConfidenceSequence, EqualityTest

RACES = 2_000
LOOKS = 128


def counts(values):
    """Yield how often -1, 0 and 1 are in each block of each race, whose values stand in rows."""
    for block in np.split(values, LOOKS, axis=1):
        yield np.stack([(block == value).sum(axis=1) for value in (-1, 0, 1)], axis=1)


def decided(blocks, total, races=RACES):
    """Return the share of races in which a look at any time calls the models different: by the test, by the bounds."""
    test, values = EqualityTest(total, 1.0), np.array([-1.0, 0.0, 1.0])
    below, above = (Beaten(total, ALPHA / 2, np.array([0.5])) for _ in range(2))
    excluded = np.zeros(races, bool)
    for block in blocks:
        test.take((values, block), (values, block))
        excluded |= below.add((values + 1) / 2, block)[:, 0] | above.add((1 - values) / 2, block)[:, 0]
    return float(np.mean(test.p < ALPHA)), float(np.mean(excluded))


@pytest.mark.parametrize("discordance", [0.1, 0.5])
def test_races_of_models_with_equal_scores_hold_the_level(discordance):
    """The models score the same on all questions of the population together."""
    total, half = 1_280, round(640 * discordance)
    values = np.zeros((RACES, total), np.int8)
    values[:, :half], values[:, half : 2 * half] = 1, -1
    by_test, by_bounds = decided(counts(np.random.default_rng(1).permuted(values, axis=1)), total)
    assert by_test <= ALPHA
    assert by_bounds <= ALPHA


def test_races_of_equally_good_models_hold_the_level():
    """Each question is won or lost by chance, so that one model is ahead on all questions of the population."""
    total, rng = 1_280, np.random.default_rng(2)
    blocks = (rng.multinomial(total // LOOKS, [0.15, 0.7, 0.15], size=RACES) for _ in range(LOOKS))
    by_test, _ = decided(blocks, total)
    assert by_test <= ALPHA


def test_categories_that_differ_as_much_as_they_can_hold_the_level():
    """Half of the questions are always won and half always lost, and each block has its share of both, or one more."""
    rng, share, larger = np.random.default_rng(3), 4, np.repeat([0, 1], LOOKS // 2)
    total = 2 * int((share + larger).sum())
    won, lost = (share + rng.permuted(np.tile(larger, (RACES, 1)), axis=1).T for _ in range(2))
    zeros = np.zeros(RACES, int)
    blocks = [np.stack([lost[look], zeros, won[look]], axis=1) for look in range(LOOKS)]
    by_test, by_bounds = decided(blocks, total)
    assert by_test <= ALPHA
    assert by_bounds <= ALPHA


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_a_confidence_sequence_covers_the_value_of_all_at_every_look(share):
    missed, rng = 0, np.random.default_rng(4)
    for _ in range(20):
        values = (np.arange(400) < 400 * share).astype(float)
        rng.shuffle(values)
        found = ConfidenceSequence(400, 0.0, 1.0)
        for block in np.split(values, 40):
            found.add([(value, value) for value in block])
        missed += not found.low <= share + 1e-9 <= found.high + 1e-9
    assert missed <= 20 * ALPHA + 3 * math.sqrt(20 * ALPHA * (1 - ALPHA))


def test_the_interval_of_a_whole_population_is_its_mean():
    found = ConfidenceSequence(8, 0.0, 1.0)
    found.add([(1.0, 1.0)] * 6 + [(0.0, 0.0)] * 2)
    assert (found.low, found.high, found.width) == (0.75, 0.75, 0.0)


def test_a_value_that_is_not_known_widens_both_ends():
    known, unknown = ConfidenceSequence(10, 0.0, 1.0), ConfidenceSequence(10, 0.0, 1.0)
    known.add([(1.0, 1.0)] * 10)
    unknown.add([(1.0, 1.0)] * 8 + [(0.0, 1.0)] * 2)
    assert (known.low, known.high) == (1.0, 1.0)
    assert (unknown.low, unknown.high) == (0.8, 1.0)


def test_a_difference_is_found_and_its_bounds_exclude_zero():
    test, found = EqualityTest(5_000, 1.0), ConfidenceSequence(5_000, -1.0, 1.0)
    values = np.random.default_rng(5).permutation(np.repeat([1.0, 0.0, -1.0], [625, 4_000, 375]))
    blocks = np.array_split(values, 250)
    asked = 0
    for block in blocks:
        given = [(value, value) for value in block]
        test.add(given)
        found.add(given)
        asked += len(block)
        if test.p < ALPHA and found.low > 0:
            break
    assert asked <= 2_500, "five points with a discordance of 0.2 need at most half of the questions"
    assert found.low < 0.05 < found.high
