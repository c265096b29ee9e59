"""The number of a group of tasks: a weighted mean of the numbers of its members."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launcher.core.types import Aggregation, Interval, MetricResult
from launcher.stats.distributions import t_quantile
from launcher.stats.intervals import TAILS, UNKNOWN, Uncertainty, clipped, wilson

Part = tuple[float, MetricResult]
"""A member's weight and its result."""


def pooled(parts: Sequence[Part]) -> MetricResult:
    """Return the weighted mean of one or more results in the same metric.

    The members' samples are independent, so that their variances add up, each times the square of its share. If
    all members have Wilson's interval, so has the group, with the number of samples that this variance implies. Else it
    has that of Student's t, with the degrees of freedom of Welch and Satterthwaite.
    """
    whole = math.fsum(weight for weight, _ in parts)
    shares = [(weight / whole, result) for weight, result in parts]
    value = math.fsum(share * result.value for share, result in shares)
    low = math.fsum(share * result.low for share, result in shares)
    high = math.fsum(share * result.high for share, result in shares)
    n = sum(result.n for _, result in shares)
    found = _uncertainty(shares, value, n)
    first = parts[0][1]
    return MetricResult(
        value, found.stderr, found.low, found.high, n, low, high,
        first.direction, found.interval, Aggregation.group, first.range,
    )  # fmt: skip


def _uncertainty(shares: Sequence[Part], value: float, n: int) -> Uncertainty:
    variances = [(share * result.stderr) ** 2 for share, result in shares]
    variance = math.fsum(variances)
    if not math.isfinite(variance):
        return UNKNOWN
    stderr = math.sqrt(variance)
    if all(result.interval is Interval.wilson for _, result in shares):
        effective = min(float(n), value * (1 - value) / variance) if variance else n
        return Uncertainty(Interval.wilson, stderr, *wilson(min(1.0, max(0.0, value)), max(1.0, effective)))
    if not variance:
        return UNKNOWN
    freedom = variance**2 / math.fsum(
        v**2 / max(1, result.n - 1) for v, (_, result) in zip(variances, shares, strict=True)
    )
    half = t_quantile(TAILS, max(1.0, round(freedom, 2))) * stderr
    return Uncertainty(Interval.t, stderr, *clipped(value - half, value + half, shares[0][1].range))
