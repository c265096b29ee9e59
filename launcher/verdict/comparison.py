"""Compares runs with the first of them: differences, how sure they are, and how many questions would tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from launcher.core.types import Direction
from launcher.report import results
from launcher.report.compare import BOOTSTRAP, Comparison, ResampledComparison, compare
from launcher.report.schema import GroupEntry
from launcher.stats.distributions import t_quantile, t_two_sided
from launcher.stats.intervals import TAILS, Z
from launcher.stats.paired import holm
from launcher.verdict import sequential
from launcher.verdict.runs import Run
from launcher.verdict.sequential import TEST, SequentialComparison

POWER_Z = 0.8416212335729143
"""The 80 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Row:
    """A metric of a task or group in two runs, and their paired difference ``found``.

    ``value_a`` and ``value_b`` are those of the questions that are compared. ``lower`` says that less is better.
    """

    found: Comparison
    value_a: float | None
    value_b: float | None
    lower: bool

    @property
    def gain(self) -> float:
        """By how much b is better than a; negative where it is worse."""
        return -self.found.difference if self.lower else self.found.difference

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the difference; None where it is not known.

        It is that of Student's t, of the bootstrap for one number of all samples, or one that is valid at any time.
        """
        if isinstance(self.found, SequentialComparison | ResampledComparison):
            low, high = self.found.low, self.found.high
            return None if low is None or high is None else (low, high)
        half = self.half_width
        return None if half is None else (self.found.difference - half, self.found.difference + half)

    @property
    def gains(self) -> tuple[float, float] | None:
        """The interval of `gain`."""
        if self.interval is None:
            return None
        low, high = self.interval
        return (-high, -low) if self.lower else (low, high)

    @property
    def half_width(self) -> float | None:
        """Half of the difference's 95 % interval of Student's t; None for another interval, or an unknown spread."""
        stderr = self.found.stderr
        independent = self.found.clusters or self.found.n
        if stderr is None or independent < 2 or self.found.test == BOOTSTRAP:
            return None
        return t_quantile(TAILS, independent - 1) * stderr

    @property
    def needed(self) -> int | None:
        """About how many questions would show a difference of this size, with 80 % power at a level of 5 %.

        None where there is no difference, or no spread to tell it from. The source of the formula: Miller 2024,
        "Adding error bars to evals", section 5.
        """
        stderr, difference = self.found.stderr, self.found.difference
        if not stderr or not difference:
            return None
        return math.ceil(self.found.n * ((Z + POWER_Z) * stderr / difference) ** 2)

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``equal`` where nothing differs, else ``may be chance``: what b is against a."""
        if self.found.significant:
            return "better" if self.gain > 0 else "worse"
        same = self.interval == (0, 0) if self.found.test in (TEST, BOOTSTRAP) else not self.found.stderr
        return "equal" if self.found.difference == 0 and same else "may be chance"


def rows(runs: Sequence[Run], inside: bool = False) -> list[Row]:
    """Compare every run with the first in each metric that both have, with one Holm correction over all of it.

    A group stands for its members; with ``inside``, its members are compared too.
    """
    found = [row for run in runs[1:] for row in _pair(runs[0], run, inside)]
    corrected = holm([row.found.p for row in found])
    return [replace(row, found=replace(row.found, p_holm=p)) for row, p in zip(found, corrected, strict=True)]


def _pair(a: Run, b: Run, inside: bool) -> Iterator[Row]:
    folded = {**a.results["groups"], **a.results["tasks"]} if inside else results.folded({**a.results})
    for name, entry in folded.items():
        for metric in entry["metrics"]:
            other = results.metric_entry({**b.results}, name, metric)
            found = _difference(a, b, name, metric) if other else None
            if other and found:
                values = found.values or (entry["metrics"][metric]["value"], other["value"])
                yield Row(found, values[0], values[1], lower=other["direction"] == Direction.lower.value)


def _difference(a: Run, b: Run, name: str, metric: str) -> Comparison | None:
    """Compare two runs in a task or in a group; None where they have no question in common."""
    order = sequential.drawn(a, b, name)
    if order is not None:
        return sequential.compare(a, b, order, metric)
    group = a.results["groups"].get(name)
    if group is None:
        return compare((a.label, a.answers), (b.label, b.answers), name, metric)
    other = b.results["groups"].get(name)
    if other is None or (other["members"], other["weight"]) != (group["members"], group["weight"]):
        return None
    return _of_group(a, b, name, group, metric)


def _of_group(a: Run, b: Run, name: str, group: GroupEntry, metric: str) -> Comparison | None:
    """Return the weighted mean of the differences of the members, tested by Student's t.

    Where their spread is not known, p is Bonferroni's bound from the members' own tests.
    """
    parts = [_difference(a, b, member, metric) for member in group["members"]]
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None
    weights = [1.0 if group["weight"] == "equal" else float(part.n) for part in found]
    shares = [weight / sum(weights) for weight in weights]
    difference = math.fsum(share * part.difference for share, part in zip(shares, found, strict=True))
    n, left_out = sum(part.n for part in found), sum(part.left_out for part in found)
    errors = [part.stderr for part in found]
    stderr = (
        None
        if None in errors
        else math.sqrt(math.fsum((share * (error or 0.0)) ** 2 for share, error in zip(shares, errors, strict=True)))
    )
    values = _weighted([part.values for part in found], shares)
    p = t_two_sided(difference / stderr, n - 1) if stderr else min(1.0, len(found) * min(part.p for part in found))
    return Comparison(name, metric, a.label, b.label, n, left_out, difference, stderr, "t", p, p_holm=p, values=values)


def _weighted(pairs: Sequence[Sequence[float] | None], shares: Sequence[float]) -> tuple[float, float] | None:
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs):
        return None
    a, b = (math.fsum(share * pair[side] for share, pair in zip(shares, known, strict=True)) for side in (0, 1))
    return a, b
