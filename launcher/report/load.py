"""A load test for readers: its verdict in sentences, and its table."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from launcher.report import formatting
from launcher.report.schema import LoadEntry, SpreadEntry

COLUMNS = ("in flight", "tokens/s", "requests/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "failed")
"""TTFT is the time to the first token, TPOT the time per token after it."""


def verdict(found: LoadEntry) -> Iterator[str]:
    """Say how fast the endpoint is, alone and at its knee, whether it caches prefixes, and why the test ended."""
    levels = {level["in_flight"]: level for level in found["levels"]}
    knee = found["knee"]
    if knee is not None:
        best = levels[knee]
        rate = f"{formatting.number(best['generated_tokens_per_s'])} generated tokens/s"
        last = knee == found["levels"][-1]["in_flight"]
        which = "the most that was measured" if last else "where more bring at most a tenth more"
        yield f"{rate} at {knee} in flight, {which}; {_first(best['ttft_s'])}"
    alone = levels.get(1)
    if alone and alone["requests"] and knee != 1:
        rate = f"{formatting.number(alone['generated_tokens_per_s'])} generated tokens/s"
        yield f"one request alone: {rate}; {_first(alone['ttft_s'])}"
    cache = found["prefix_cache"]
    if cache:
        times = f"{formatting.duration(cache['new_s'])} for a new prompt, {formatting.duration(cache['again_s'])} again"
        said = cache.get("cached_tokens")
        counted = "" if said is None else f"; the server says that it had {said:,} tokens cached"
        yield f"prefix cache {'found' if cache['found'] else 'not found'}: {times}{counted}"
    elif found["levels"]:
        yield "prefix cache not looked for: no prompt could be sent twice within the budget"
    budget = f"{formatting.duration(found['seconds'])} and {found['tokens']:,} tokens"
    yield f"ended after {budget}: {found['ended']}"


def _first(spread: SpreadEntry) -> str:
    return f"TTFT p50 {_time(spread['p50'])}, p99 {_time(spread['p99'])}"


def rows(found: LoadEntry) -> list[tuple[str, ...]]:
    """Return the cells of each level, as `COLUMNS` names them."""
    return [
        (
            str(level["in_flight"]),
            formatting.number(level["generated_tokens_per_s"]),
            formatting.number(level["requests_per_s"]),
            _time(level["ttft_s"]["p50"]),
            _time(level["ttft_s"]["p99"]),
            _time(level["tpot_s"]["p50"]),
            _time(level["tpot_s"]["p99"]),
            f"{level['failed']:,}",
        )
        for level in found["levels"]
    ]


def reasons(found: LoadEntry) -> list[str]:
    """Return why requests failed."""
    return list(dict.fromkeys(error for level in found["levels"] for error in level["errors"]))


def table(found: LoadEntry) -> Table:
    """Return the levels as a table for the terminal."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=_title(found), title_justify="left")
    for name in COLUMNS:
        made.add_column(name, justify="right")
    for row in rows(found):
        made.add_row(*row)
    return made


def _title(found: LoadEntry) -> str:
    return f"load test of {found['path']}: {sizes(found)}"


def sizes(found: LoadEntry) -> str:
    """Say how long prompts and answers are."""
    at_most = "" if found.get("ignore_eos") else "at most "
    return f"prompts of {found['prompt_tokens']:,} tokens, answers of {at_most}{found['max_tokens']:,}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else formatting.short_time(seconds)
