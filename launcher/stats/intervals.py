"""Standard errors and 95 % confidence intervals of a number that samples give."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from launcher.core.types import Interval
from launcher.stats.clusters import Clusters
from launcher.stats.distributions import t_quantile
from launcher.stats.quantiles import quantile
from launcher.stats.resampling import Statistic, resamples

TAILS = 0.05
"""What is outside of a 95 % interval."""
Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: 95 % two-sided."""


@dataclass(frozen=True)
class Uncertainty:
    """A standard error with the interval that belongs to it, all NaN where none is known."""

    interval: Interval = Interval.none
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan


UNKNOWN = Uncertainty()


def of_mean(clusters: Clusters, mean: float, range_: tuple[float | None, float | None]) -> Uncertainty:
    """Return Wilson's interval for values of 0 and 1, else that of Student's t, cut to the range of the metric.

    The standard error is clustered by item (Miller 2024, "Adding error bars to evals"). Wilson's interval uses the
    effective number of samples that it implies. One item with another value than 0 and 1 tells nothing of the spread,
    and neither do several with the same.
    """
    stderr = clustered_error(clusters, mean)
    n = clusters.count
    if all(value in (0.0, 1.0) for value in clusters.flat):
        low, high = wilson(mean, _effective(mean, stderr, len(clusters), n))
        return Uncertainty(Interval.wilson, (high - low) / (2 * Z) if n == 1 else stderr, low, high)
    if len(clusters) == 1 or _is_rounding(stderr, mean):
        return UNKNOWN
    half = t_quantile(TAILS, len(clusters) - 1) * stderr
    return Uncertainty(Interval.t, stderr, *clipped(mean - half, mean + half, range_))


def clustered_error(clusters: Clusters, mean: float) -> float:
    """Return the clustered standard error; with one value per item it is sd / sqrt(n) with n - 1 in the sd."""
    count = len(clusters)
    if count < 2:
        return 0.0
    squares = math.fsum(off * off for off in clusters.sums_from(mean))
    return math.sqrt(squares * count / (count - 1)) / clusters.count


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval for a share of ``n`` (Wilson 1927)."""
    scale = 1 + Z * Z / n
    center = (share + Z * Z / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def wilson_n(share: float, low: float, high: float) -> float:
    """Return the number of samples for which `wilson` gives ``low`` and ``high``: both solve one equation with it."""
    end = low if share - low > high - share else high
    return Z * Z * end * (1 - end) / (share - end) ** 2


def clipped(low: float, high: float, range_: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return an interval without what lies outside of the range of the metric, which the true value cannot have."""
    least, most = range_
    return (low if least is None else max(low, least)), (high if most is None else min(high, most))


def bootstrap(clusters: Clusters, statistic: Statistic) -> Uncertainty:
    """Return the percentile bootstrap over items (Efron 1979), from a fixed seed.

    Nothing is known where there is one item, where the number cannot be computed for a resample, and where all
    resamples give the same.
    """
    found = resamples(statistic, [clusters])
    if found is None:
        return UNKNOWN
    values = sorted(found[0].tolist())
    stderr = statistics.stdev(values)
    if _is_rounding(stderr, values[-1]):
        return UNKNOWN
    return Uncertainty(Interval.bootstrap, stderr, quantile(values, TAILS / 2), quantile(values, 1 - TAILS / 2))


def _is_rounding(stderr: float, value: float) -> bool:
    """Tell whether a standard error is that of equal values."""
    return stderr <= 1e-12 * abs(value)


def _effective(mean: float, stderr: float, clusters: int, n: int) -> float:
    """Return how many independent samples are worth as much as these: between the number of items and of samples."""
    if clusters == n or not stderr:
        return clusters
    return min(float(n), max(float(clusters), mean * (1 - mean) / stderr**2))
