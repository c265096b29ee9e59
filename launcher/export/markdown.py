"""Markdown: ``results.md``, for a pull request or a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.core.console import printable
from launcher.core.files import replace
from launcher.core.types import Json
from launcher.export import rows
from launcher.export.source import Source
from launcher.report import formatting

COUNTS = ("scored", "truncated", "refused", "unparsed", "failed", "not_asked", "total")
SPECIAL = "\\`*_{}[]<>()#+-!|~&"


def write(source: Source, folder: Path) -> list[Path]:
    """Write the scores with their errors, the coverage, and why samples were lost."""
    return [replace(folder / "results.md", "\n".join(_lines(source)) + "\n")]


def _lines(source: Source) -> Iterator[str]:
    found = source.results
    yield f"# {_escaped(source.model)}: {found['status']}"
    yield ""
    if found["reason"]:
        yield f"{_escaped(found['reason'])}\n"
    yield "| Task | Metric | Value | 95 % confidence | " + " | ".join(name.replace("_", " ") for name in COUNTS) + " |"
    yield "| --- | --- | ---: | --- |" + " ---: |" * len(COUNTS)
    for row in rows.score_rows(found):
        yield "| " + " | ".join([*_score(row), *(str(row[name]) for name in COUNTS)]) + " |"
    lost = [
        f"- {_escaped(task)}, {status} {times} times: {_escaped(reason)}"
        for task, entry in found["tasks"].items()
        for status, reasons in entry["reasons"].items()
        for reason, times in reasons.items()
    ]
    if lost:
        yield from ("", "Samples without a score:", "", *lost)


def _score(row: dict[str, Json]) -> list[str]:
    value = "-" if row["value"] is None else formatting.number(row["value"])
    spread = "" if row["stderr"] is None else f" ± {formatting.number(row['stderr'])}"
    ends = (row["ci_low"], row["ci_high"])
    interval = "-" if None in ends else formatting.interval(*ends)
    return [_escaped(str(row["task"])), _escaped(str(row["metric"] or "-")), value + spread, interval]


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line of a table."""
    line = rows.text(printable(text)).replace("\n", " ")
    return "".join(f"\\{character}" if character in SPECIAL else character for character in line)
