"""Which of two servers is faster, by what ratio, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.report.schema import LevelEntry, LoadEntry, PartEntry
from launcher.stats.ratios import Ratio, ratio
from launcher.verdict.servers.schema import RatioEntry, ServerEntry

RATE, FIRST, EACH = "generated_tokens_per_s", "ttft_s", "tpot_s"
FIGURES = (RATE, FIRST, EACH)


def ratios(a: ServerEntry, b: ServerEntry, *, paired: bool) -> list[RatioEntry]:
    """Return what b measures over what a does: where each has its most tokens per second, and at each common level.

    ``paired`` says that both took turns.
    """
    if a["load"] is None or b["load"] is None:
        return []
    levels = [(one, other) for one in a["load"]["levels"] for other in b["load"]["levels"] if _same(one, other)]
    made = [_entry(a, b, RATE, pair, paired) for pair in _best(a["load"], b["load"])]
    made += [_entry(a, b, figure, pair, paired) for pair in levels for figure in FIGURES]
    return [entry for entry in made if entry is not None]


def _same(one: LevelEntry, other: LevelEntry) -> bool:
    return one["in_flight"] == other["in_flight"]


def _best(a: LoadEntry, b: LoadEntry) -> Iterator[tuple[LevelEntry, LevelEntry]]:
    if a["levels"] and b["levels"]:
        yield _fastest(a), _fastest(b)


def _fastest(found: LoadEntry) -> LevelEntry:
    return max(found["levels"], key=lambda level: level["generated_tokens_per_s"])


def _entry(
    a: ServerEntry, b: ServerEntry, figure: str, levels: tuple[LevelEntry, LevelEntry], paired: bool
) -> RatioEntry | None:
    under, over = (_values(level, figure) for level in levels)
    found = ratio(over, under, paired=paired and _same(*levels)) or _of_whole(*levels, figure)
    if found is None:
        return None
    at = levels[0]["in_flight"], levels[1]["in_flight"]
    return RatioEntry(
        a=a["label"], b=b["label"], figure=figure, in_flight=at, ratio=found.value, low=found.low, high=found.high
    )


def _values(level: LevelEntry, figure: str) -> list[float]:
    """Return the figure in each part of the level's time; none where a part has none."""
    parts: Sequence[PartEntry] = level.get("parts") or []
    found: list[float | None] = [dict(part)[figure] for part in parts]  # type: ignore[misc]
    return [] if None in found else [value for value in found if value is not None]


def _of_whole(a: LevelEntry, b: LevelEntry, figure: str) -> Ratio | None:
    """Return the ratio without an interval."""
    under, over = _whole(a, figure), _whole(b, figure)
    return Ratio(over / under) if under and over else None


def _whole(level: LevelEntry, figure: str) -> float | None:
    if figure == RATE:
        return level["generated_tokens_per_s"]
    return (level["ttft_s"] if figure == FIRST else level["tpot_s"])["p50"]


def is_sure(found: RatioEntry) -> bool:
    """Tell whether the servers differ in it, beyond chance."""
    return Ratio(found["ratio"], found["low"], found["high"]).is_sure


def sentence(found: RatioEntry) -> str:
    """Say which server is faster in a figure, by what ratio, and how sure that is."""
    more = found["ratio"] >= 1
    larger, smaller = (found["b"], found["a"]) if more else (found["a"], found["b"])
    by = f"{times(found['ratio'] if more else 1 / found['ratio'])} {_interval(found, inverted=not more)}"
    if found["figure"] == RATE:
        said = f"{larger} generates {by} as many tokens per second as {smaller}, {_where(found)}"
        faster = larger
    else:
        what = "the first token" if found["figure"] == FIRST else "each token after it"
        said = f"{what} takes {larger} {by} as long as {smaller}, {_where(found)}"
        faster = smaller
    if found["low"] is None:
        return said
    return f"{faster} is faster: {said}" if is_sure(found) else f"neither is faster beyond chance: {said}"


def _where(found: RatioEntry) -> str:
    at, other = found["in_flight"]
    if at == other:
        return "one request alone" if at == 1 else f"at {at} in flight"
    return f"{found['b']} at {other} in flight, {found['a']} at {at}"


def _interval(found: RatioEntry, *, inverted: bool) -> str:
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return "(too little was measured for an interval)"
    ends = (1 / high, 1 / low) if inverted else (low, high)
    return f"(95 % {ends[0]:.3g} to {ends[1]:.3g})"


def times(value: float) -> str:
    """Write a ratio: ``1.32 times``."""
    return f"{value:.3g} times"


def figures(load: LoadEntry, in_flight: int) -> LevelEntry | None:
    """Return the level with so many in flight; None where it was not measured."""
    return next((level for level in load["levels"] if level["in_flight"] == in_flight), None)
