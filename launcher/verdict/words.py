"""A comparison in sentences."""

from __future__ import annotations

import math

from launcher.report import formatting
from launcher.report.compare import BOOTSTRAP, FEWEST_CLUSTERS
from launcher.verdict.comparison import Row
from launcher.verdict.sequential import SequentialComparison


def sentence(row: Row) -> str:
    """Say which run is better, by how much, and how sure that is."""
    if isinstance(row.found, SequentialComparison) and row.verdict != "equal":
        return _of_early_stop(row, row.found)
    found, p = row.found, f"p = {formatting.p_value(row.found.p_holm)}".replace("= <", "<")
    questions = formatting.plural(found.n, "question")
    if found.clusters is not None:
        questions += f" in {formatting.plural(found.clusters, 'passage')}"
    if row.verdict == "equal" and found.test == BOOTSTRAP:
        return f"{found.a} and {found.b} have the same value over {questions}"
    if row.verdict == "equal":
        return f"{found.a} and {found.b} score the same in each of {questions}"
    if found.difference == 0:
        return f"{found.a} and {found.b} score the same on average over {questions}, not in each"
    size = f"{_better(row, found.a, found.b)} by {formatting.number(abs(found.difference))}{_plus_minus(row)}"
    if found.significant:
        return f"{size} ({p}, {questions})"
    if found.clusters is not None and found.clusters < FEWEST_CLUSTERS:
        return f"{size}: {_too_few(found.clusters, formatting.plural(found.clusters, 'passage'))} ({questions})"
    if found.test == BOOTSTRAP and found.n < FEWEST_CLUSTERS:
        return f"{size}: {_too_few(found.n, questions)}"
    told = "" if row.needed is None else f"; about {_about(max(row.needed, found.n + 1))} questions would tell"
    return f"{size}: may be chance ({p}, {questions}){told}"


def _better(row: Row, a: str, b: str) -> str:
    """Name both, as a comparison of several runs has pairs in which the same run is the better one."""
    return f"{b} is better than {a}" if row.gain > 0 else f"{a} is better than {b}"


def _too_few(count: int, units: str) -> str:
    return f"{units} {'is' if count == 1 else 'are'} too few to tell"


def _of_early_stop(row: Row, found: SequentialComparison) -> str:
    """Say what holds at any time; the bounds are of what all questions would show."""
    p = f"p = {formatting.p_value(found.p_holm)}".replace("= <", "<")
    sign = 1 if row.gain >= 0 else -1
    size = f"no difference between {found.a} and {found.b}"
    if row.gain:
        size = f"{_better(row, found.a, found.b)} by {formatting.number(abs(found.difference))}"
    chance = "" if found.significant else ": may be chance"
    bounds = "" if found.low == found.high else f", {_bounds(row, found, sign)}"
    return f"{size}{bounds}{chance} ({p} at any time, after {_asked(found)})"


def _bounds(row: Row, found: SequentialComparison, sign: int) -> str:
    every = formatting.plural(found.total, "question")
    low, high = sorted(sign * end for end in row.gains or (math.nan, math.nan))
    return f"on all {every} by {formatting.number(low)} to {formatting.number(high)}"


def _asked(found: SequentialComparison) -> str:
    asked = found.n + found.left_out
    passages = "" if found.clusters is None else f" in {formatting.plural(found.clusters, 'passage')}"
    return ("all of them" if asked == found.total else formatting.plural(asked, "question")) + passages


def _plus_minus(row: Row) -> str:
    if row.half_width is not None:
        return f" ± {formatting.number(row.half_width)}"
    if row.found.test != BOOTSTRAP or row.gains is None:
        return ""
    low, high = sorted((1 if row.gain > 0 else -1) * end for end in row.gains)
    return f", 95 % interval {formatting.interval(low, high)}"


def _about(count: int) -> str:
    """Write a count with two significant digits."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // scale) * scale:,}"
