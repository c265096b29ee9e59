"""Writes ``sweep.json`` and ``sweep.html``, and prints the table of a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from launcher.core.files import replace
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.report import page, results, sweep_page, sweep_table, terminal
from launcher.report.sweep_schema import SweepFile

LISTED = 200
"""At most this many comparisons are listed on the page; ``sweep.json`` has all."""


def report(folder: Path, console: Console | None = None) -> SweepFile:
    """Write both files of a multirun folder, print its table, and return what `collect` found."""
    found = write(folder)
    terminal.print_sweep(found, folder, console or Console())
    return found


def collect(folder: Path) -> SweepFile:
    """Return ``sweep.json`` of a multirun folder: its points, and the paired comparisons between them.

    Raises `UserError` if there is no point at all.
    """
    return sweep_table.collect(folder)


def write(folder: Path) -> SweepFile:
    """Write ``sweep.json`` and ``sweep.html`` into a multirun folder and return what `collect` found."""
    found = collect(folder)
    replace(RunFolder(folder).sweep, results.encode(found, indent=2) + "\n")
    replace(RunFolder(folder).sweep_page, page.render("sweep.html.j2", values(found, folder)))
    return found


def values(sweep: SweepFile, folder: Path) -> dict[str, Json]:
    comparisons = sorted(sweep["comparisons"], key=lambda comparison: (comparison["p_holm"], comparison["p"]))
    pages = {point["folder"] for point in sweep["points"] if RunFolder(folder / point["folder"]).report.exists()}
    table = sweep_table.table(sweep)
    return {
        "name": folder.resolve().name,
        "title": sweep_page.title(table),
        "models": sweep_page.models(sweep),
        "swept": sweep_page.swept(table),
        "verdicts": sweep_page.verdicts(sweep, table),
        "charts_drawn": sweep_page.drawn(table),
        "open": sweep_page.OPEN,
        "speed": sweep_page.speed(sweep["points"]),
        "labels": {point["folder"]: sweep_page.label(point, chosen) for point, chosen, _ in table.rows},
        "table": table,
        "points": sweep["points"],
        "pages": pages,
        "comparisons": comparisons[:LISTED],
        "more": max(0, len(comparisons) - LISTED),
    }
