"""The verdict at the end of a sweep: each point against the first, in sentences."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.core.console import printable
from launcher.core.errors import UserError
from launcher.report import formatting, sweep_table
from launcher.verdict import runs
from launcher.verdict.comparison import Row, rows
from launcher.verdict.terminal import TONES
from launcher.verdict.words import sentence

PRINTED = 12
"""At most so many sentences are printed, the surest first."""


def show(folder: Path, console: Console) -> None:
    """Print what each point with scores is against the first one; nothing where fewer than two have any.

    What differs between points is what the sweep varies, so that no pair is refused.
    """
    scored = _runs(folder)
    found = rows(scored) if len(scored) > 1 else []
    if not found:
        return
    ordered = sorted(found, key=lambda row: row.found.p_holm)
    for row in ordered[:PRINTED]:
        console.print(
            Text.assemble((f"{_name(row)}  ", "bold"), (printable(sentence(row)), TONES[row.verdict])),
        )
    more = f"{formatting.plural(len(found) - PRINTED, 'more verdict')}, and " if len(found) > PRINTED else ""
    force = " --force" if any(runs.measured_otherwise(scored[0], other) for other in scored[1:]) else ""
    told = Text(f"{more}the questions that changed: launcher compare {shlex.quote(str(folder))}{force}", style="dim")
    console.print(told, soft_wrap=True)


def _name(row: Row) -> str:
    return f"{printable(formatting.task_name(row.found.task))} {printable(row.found.metric)}"


def _runs(folder: Path) -> list[runs.Run]:
    scored = [point["folder"] for point in sweep_table.points_of(folder) if point["tasks"]]
    found = []
    for name in scored:
        try:
            found.append(runs.read(folder / name, f"point {name}"))
        except UserError:  # a point without answers, which the table of the sweep explains
            continue
    return found
