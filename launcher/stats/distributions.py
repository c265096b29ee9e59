"""Student's t distribution and the binomial one at one half, by SciPy, which is imported where it is needed."""

from __future__ import annotations

import math
from functools import lru_cache


def t_two_sided(t: float, freedom: float) -> float:
    """Return how probable a value as far from 0 as ``t`` is, or further, for Student's t of ``freedom`` degrees."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


@lru_cache(maxsize=256)
def t_quantile(two_sided: float, freedom: float) -> float:
    """Return the ``t`` above 0 with `t_two_sided` equal to ``two_sided``."""
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, two_sided / 2))


def normal_below(z: float) -> float:
    """Return how probable a value below ``z`` is in the standard normal distribution."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def even_two_sided(fewer: int, n: int) -> float:
    """Return the probability that of ``n`` fair coins at most ``fewer``, or at least ``n - fewer``, show heads."""
    from scipy.special import bdtr

    return min(1.0, float(2 * bdtr(fewer, n, 0.5)))
