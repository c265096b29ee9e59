"""The ratio of two means of positive values, with its 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.stats.distributions import t_quantile
from launcher.stats.paired import ALPHA, mean, standard_error


@dataclass(frozen=True)
class Ratio:
    """A ratio; ``low`` and ``high`` bound it, None where too little was measured to say."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether it is not 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def ratio(of: Sequence[float], to: Sequence[float], *, paired: bool) -> Ratio | None:
    """Return the ratio of the geometric means; None where a value is not positive, or there is none.

    Values that are ``paired`` were measured one beside the other: the interval is that of Student's t for the mean of
    their differences as logarithms. Else it is Welch's.
    """
    if not of or not to or min(*of, *to) <= 0:
        return None
    over, under = [math.log(value) for value in of], [math.log(value) for value in to]
    value = mean(over) - mean(under)
    found = _paired(over, under) if paired and len(of) == len(to) else _apart(over, under)
    if found is None:
        return Ratio(math.exp(value))
    stderr, freedom = found
    half = t_quantile(ALPHA, freedom) * stderr
    return Ratio(math.exp(value), math.exp(value - half), math.exp(value + half))


def _paired(over: Sequence[float], under: Sequence[float]) -> tuple[float, float] | None:
    stderr = standard_error([a - b for a, b in zip(over, under, strict=True)])
    return None if stderr is None else (stderr, len(over) - 1)


def _apart(over: Sequence[float], under: Sequence[float]) -> tuple[float, float] | None:
    """Return the standard error of a difference of means, and Welch's degrees of freedom."""
    errors = [standard_error(values) for values in (over, under)]
    if errors[0] is None or errors[1] is None:
        return None
    a, b = errors[0] ** 2, errors[1] ** 2
    if not a + b:
        return 0.0, 1.0
    return math.sqrt(a + b), (a + b) ** 2 / (a**2 / (len(over) - 1) + b**2 / (len(under) - 1))
