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


def passages(races, rng):
    """Return passages of one to five questions, all of which are won, or lost, or neither, as counts in each block.

    The models score the same on all questions together: for each passage that is won, one of the same size is lost.
    """
    kinds = [(size, sign) for size in (1, 3, 5) for sign in (-1, 0, 1)]
    numbers = np.repeat(np.arange(len(kinds)), [48 if sign else 32 for _, sign in kinds])
    drawn = rng.permuted(np.tile(numbers, (races, 1)), axis=1)
    blocks = [np.stack([(b == k).sum(axis=1) for k in range(len(kinds))], axis=1) for b in np.split(drawn, 48, axis=1)]
    return np.array(kinds), blocks, len(numbers), sum(kinds[number][0] for number in numbers)


def test_races_over_passages_hold_the_level_which_single_questions_would_not():
    (kinds, blocks, units, total), largest = passages(RACES, np.random.default_rng(6)), 5
    size, won = kinds[:, 0].astype(float), kinds[:, 0] * (kinds[:, 1] + 1) / 2
    test = EqualityTest(units, 1.0, largest)
    as_one, as_many = ([Beaten(count, ALPHA / 2, np.array([0.5])) for _ in range(2)] for count in (units, total))
    excluded, naive = np.zeros(RACES, bool), np.zeros(RACES, bool)
    for block in blocks:
        test.take((kinds.prod(axis=1).astype(float), block), (kinds.prod(axis=1).astype(float), block))
        for one, many, value in zip(as_one, as_many, (won, size - won), strict=True):
            excluded |= one.add(value / largest, block, 1 - size / largest)[:, 0]
            naive |= many.add(value / size, block * size)[:, 0]
    assert np.mean(test.p < ALPHA) <= ALPHA
    assert np.mean(excluded) <= ALPHA
    assert np.mean(naive) > 2 * ALPHA, "questions of a passage are no independent ones"


@pytest.mark.parametrize("sizes", [[1, 4, 3], [2, 2, 4], [1] * 8])
def test_units_of_any_size_end_at_the_mean_of_their_questions(sizes):
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    found = ConfidenceSequence(8, 0.0, 1.0, units=len(sizes), largest=max(sizes))
    start = 0
    for size in sizes:
        found.add([(value, value) for value in values[start : start + size]], [size])
        start += size
    assert found.low == pytest.approx(5 / 8, abs=1e-9)
    assert found.high == pytest.approx(5 / 8, abs=1e-9)


def test_a_higher_candidate_never_gains_more_from_units():
    """So the candidates below an excluded one are excluded too."""
    rng, means = np.random.default_rng(7), np.linspace(0.0, 1.0, 201)
    beaten = Beaten(60, ALPHA, means)
    for _ in range(20):
        size = rng.integers(1, 6, 3)
        won = rng.binomial(size, 0.8)
        found = beaten.add(won / 5, np.ones(3), 1 - size / 5)
        assert list(found) == sorted(found, reverse=True)


def test_units_need_all_of_their_values():
    with pytest.raises(ValueError, match="3 values for units of 4"):
        ConfidenceSequence(8, 0.0, 1.0, units=4, largest=2).add([(1.0, 1.0)] * 3, [2, 2])
