"""The metric pass@k: how likely one of k programs passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import comb

from launcher.core.types import Aggregation, Json
from launcher.stats.metric import Metric


def metric(k: int) -> Metric:
    """Return pass@k; an item with fewer than ``k`` scored samples has no value."""
    if k == 1:
        return Metric(name(k))
    return Metric(name(k), aggregation=Aggregation.items, combine=partial(estimate, k=k))


def name(k: int) -> str:
    return f"pass@{k}"


def k_of(name: str) -> int:
    """Return the k of a metric's name; 0 for another metric."""
    kind, _, k = name.partition("@")
    return int(k) if kind == "pass" and k.isdecimal() else 0


def estimate(passed: Sequence[Json], k: int) -> float | None:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) for ``c`` of ``n`` samples that passed; None if n < k.

    Chen et al., "Evaluating Large Language Models Trained on Code" (2021), equation 1.
    """
    n, c = len(passed), sum(value == 1 for value in passed)
    return None if n < k else 1 - comb(n - c, k) / comb(n, k)
