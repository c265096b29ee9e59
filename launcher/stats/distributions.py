"""Student's t distribution and the binomial one at one half, as far as the tests need them.

The core installation has no SciPy; the tests compare with its values.
"""

from __future__ import annotations

import math
from functools import lru_cache


def t_two_sided(t: float, freedom: float) -> float:
    """Return how probable a value as far from 0 as ``t`` is, or further, for Student's t of ``freedom`` degrees."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=256)
def t_quantile(two_sided: float, freedom: float) -> float:
    """Return the ``t`` above 0 with `t_two_sided` equal to ``two_sided``, to 1e-12 of it, by bisection."""
    low, high = 0.0, 1.0
    while t_two_sided(high, freedom) > two_sided:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, freedom) > two_sided else (low, middle)
    return high


def even_two_sided(fewer: int, n: int) -> float:
    """Return the probability that of ``n`` fair coins at most ``fewer``, or at least ``n - fewer``, show heads."""
    ways = term = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        ways += term
    return min(1.0, float(2 * ways / 2**n))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b) (DLMF 8.17.4 and 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Evaluate 1 + d1/(1 + d2/(1 + ...)) of DLMF 8.17.22 with Lentz's method."""
    value = c = 1.0
    d = 0.0
    for step in range(1, 10_000):
        m = step // 2
        top = -(a + m) * (a + b + m) if step % 2 else m * (b - m)
        term = top * x / ((a + step - 1) * (a + step))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
