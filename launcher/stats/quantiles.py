"""Quantiles of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of an ascending sequence lies, interpolated linearly.

    This is type 7 of Hyndman and Fan (1996), the default of NumPy and R.
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
