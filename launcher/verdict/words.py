"""A comparison in sentences."""

from __future__ import annotations

from launcher.report import formatting
from launcher.verdict.comparison import Row


def sentence(row: Row) -> str:
    """Say which run is better, by how much, and how sure that is."""
    found, p = row.found, f"p = {formatting.p_value(row.found.p_holm)}".replace("= <", "<")
    questions = formatting.plural(found.n, "question")
    if row.verdict == "equal":
        return f"{found.a} and {found.b} score the same in each of {questions}"
    if found.difference == 0:
        return f"{found.a} and {found.b} score the same on average over {questions}, not in each"
    better = found.b if row.gain > 0 else found.a
    size = f"{better} is better by {formatting.number(abs(found.difference))}{_plus_minus(row)}"
    if found.significant:
        return f"{size} ({p}, {questions})"
    told = "" if row.needed is None else f"; about {_about(max(row.needed, found.n + 1))} questions would tell"
    return f"{size}: may be chance ({p}, {questions}){told}"


def _plus_minus(row: Row) -> str:
    return "" if row.half_width is None else f" ± {formatting.number(row.half_width)}"


def _about(count: int) -> str:
    """Write a count with two significant digits."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // scale) * scale:,}"
