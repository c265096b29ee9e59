"""Tests of paired differences, and the correction for many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launcher.stats.distributions import even_two_sided, t_two_sided

ALPHA = 0.05
"""A difference is called significant when its corrected p-value is below this."""


def mean(values: Sequence[float]) -> float:
    """Return the mean of one or more values."""
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of ``values``, None for a single one."""
    if len(values) < 2:
        return None
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1) / len(values))


def sign_test(gains: int, losses: int) -> float:
    """Return the exact two-sided p-value of ``gains`` against ``losses`` if both were equally likely.

    For values of 0 and 1 this is McNemar's exact test.
    """
    return even_two_sided(min(gains, losses), gains + losses)


def t_test(t: float, freedom: int) -> float:
    """Return the two-sided p-value of Student's t with ``freedom`` degrees of freedom."""
    return t_two_sided(t, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order of ``p_values`` (Holm 1979)."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = floor
    return adjusted
