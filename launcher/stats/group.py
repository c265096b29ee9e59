"""The number of a group of tasks: a weighted mean of the numbers of its members."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from launcher.core.types import Aggregation, Interval, MetricResult
from launcher.stats.intervals import UNKNOWN, Uncertainty, Z, wilson, wilson_n

Part = tuple[float, MetricResult]
"""A member's weight and its result."""


def pooled(parts: Sequence[Part]) -> MetricResult:
    """Return the weighted mean of one or more results in the same metric.

    The members' samples are independent, so that their variances add up, each times the square of its share. If all
    members have Wilson's interval, so has the group, with the number of samples that is worth as much as theirs. Else
    the squares of the distances to the ends of the members' intervals add up: MOVER, the method of variance estimates
    recovery (Zou and Donner 2008).
    """
    whole = math.fsum(weight for weight, _ in parts)
    shares = [(weight / whole, result) for weight, result in parts]
    value = math.fsum(share * result.value for share, result in shares)
    low = math.fsum(share * result.low for share, result in shares)
    high = math.fsum(share * result.high for share, result in shares)
    counts = [result.n for _, result in shares]
    n = None if None in counts else sum(filter(None, counts))
    found = _uncertainty(shares, value)
    first = parts[0][1]
    return MetricResult(
        value, found.stderr, found.low, found.high, n, low, high,
        first.direction, found.interval, Aggregation.group, first.range,
    )  # fmt: skip


def _uncertainty(shares: Sequence[Part], value: float) -> Uncertainty:
    """Return no interval where a member has none."""
    stderr = _root_of_squares(share * result.stderr for share, result in shares)
    if all(result.interval is Interval.wilson for _, result in shares):
        return Uncertainty(Interval.wilson, stderr, *wilson(min(1.0, max(0.0, value)), _effective(shares)))
    below = _root_of_squares(share * (result.value - result.ci_low) for share, result in shares)
    above = _root_of_squares(share * (result.ci_high - result.value) for share, result in shares)
    if not all(map(math.isfinite, (stderr, below, above))):
        return UNKNOWN
    return Uncertainty(Interval.mover, stderr, value - below, value + above)


def _effective(shares: Sequence[Part]) -> float:
    """Return how many samples of one task are worth as much as the members', by their variances.

    Each value is first drawn to one half, as for the interval of Agresti and Coull (1998). So a member with all answers
    right has a variance above zero.
    """
    each = [(share, result.value, wilson_n(result.value, result.ci_low, result.ci_high)) for share, result in shares]
    drawn = [(share, (p * n + Z * Z / 2) / (n + Z * Z), n) for share, p, n in each]
    value = math.fsum(share * p for share, p, _ in drawn)
    return value * (1 - value) / math.fsum(share**2 * p * (1 - p) / n for share, p, n in drawn)


def _root_of_squares(values: Iterable[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))
