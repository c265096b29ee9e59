"""Paired comparison of two runs on the samples that both scored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import Record, Status

ALPHA = 0.05
"""A difference is called significant when its corrected p-value is below this."""


@dataclass(frozen=True)
class Comparison:
    """Run ``b`` against run ``a`` on the ``n`` questions that both scored.

    ``difference`` is the mean of b - a and ``stderr`` the standard error of that mean (None for n = 1). ``p`` is the
    two-sided p-value: of McNemar's exact test, which is the sign test, where every value is 0 or 1 (``test`` is
    ``sign``), else of Student's paired t-test (``t``). ``p_holm`` is ``p`` after Holm's correction. ``left_out``
    counts the questions of either run that are not in both, or not scored in both, or have another target.
    """

    task: str
    metric: str
    a: str
    b: str
    n: int
    left_out: int
    difference: float
    stderr: float | None
    test: str
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass
class Answers:
    """What a run scored: the ids of every task, and by task and metric the values of each id's repeats.

    A value's key holds the question's target too, so that equal ids of different items are not taken for a pair.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[tuple[str, int], list[float]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Answers:
        """Read the samples of a run folder. Raises `ResumeError` for a damaged line."""
        answers = cls()
        for record in RunFolder(folder).records():
            answers._add(record)
        return answers

    def _add(self, record: Record) -> None:
        self.ids.setdefault(record.task, set()).add(record.id)
        if record.status is not Status.scored:
            return
        question = record.id, hash(json.dumps(record.target, sort_keys=True))
        for metric, value in record.scores.items():
            if math.isfinite(value):
                self.values.setdefault((record.task, metric), {}).setdefault(question, []).append(float(value))


def compare_all(runs: Mapping[str, Answers]) -> list[Comparison]:
    """Compare every two runs in every metric that both have, with one Holm correction over all of it."""
    return compare_each(runs, ((a, b, *which) for a, b in combinations(runs, 2) for which in runs[a].values))


def compare_each(runs: Mapping[str, Answers], pairs: Iterable[tuple[str, str, str, str]]) -> list[Comparison]:
    """Compare ``pairs`` of runs, each in one task and metric, with one Holm correction over all of it."""
    made = (compare((a, runs[a]), (b, runs[b]), task, metric) for a, b, task, metric in pairs)
    found = [comparison for comparison in made if comparison is not None]
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, corrected, strict=True)]


def compare(a: tuple[str, Answers], b: tuple[str, Answers], task: str, metric: str) -> Comparison | None:
    """Compare two named runs in one metric, uncorrected; None if no question was scored in both.

    A question that was asked several times counts once, with the mean of its repeats.
    """
    left, right = (run.values.get((task, metric), {}) for _, run in (a, b))
    pairs = [(_mean(left[question]), _mean(right[question])) for question in left if question in right]
    if not pairs:
        return None
    every = a[1].ids.get(task, set()) | b[1].ids.get(task, set())
    differences = [y - x for x, y in pairs]
    difference, stderr = _mean(differences), standard_error(differences)
    test, p = _test(pairs, difference, stderr)
    return Comparison(
        task, metric, a[0], b[0], len(pairs), len(every) - len(pairs), difference, stderr, test, p, p_holm=p
    )


def _test(pairs: Sequence[tuple[float, float]], difference: float, stderr: float | None) -> tuple[str, float]:
    """The sign test for 0/1 values, and where differences do not vary so that t is not defined."""
    binary = all(value in (0.0, 1.0) for pair in pairs for value in pair)
    if binary or stderr is None or stderr <= 1e-12 * max(1.0, abs(difference)):
        gains = sum(y > x for x, y in pairs)
        losses = sum(y < x for x, y in pairs)
        return "sign", sign_test(gains, losses)
    return "t", t_test(difference / stderr, len(pairs) - 1)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of ``values``, None for a single one."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def sign_test(gains: int, losses: int) -> float:
    """Return the exact two-sided p-value of ``gains`` against ``losses`` if both were equally likely."""
    n, fewer = gains + losses, min(gains, losses)
    ways = term = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        ways += term
    return min(1.0, float(2 * ways / 2**n))


def t_test(t: float, freedom: int) -> float:
    """Return the two-sided p-value of Student's t with ``freedom`` degrees of freedom."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order of ``p_values`` (Holm 1979)."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = floor
    return adjusted


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


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
