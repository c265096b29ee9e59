"""The table of a running evaluation: it fits any terminal, and cuts names before numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.core.console import printable
from launcher.evaluate.tally import EMPTY, Tallies, Tally, short

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 8
"""At most this many tasks have a row: those that have begun last."""
NARROW, WIDE = 72, 100
"""Below the first width the metric has no name, below the second the row of all tasks has no bar."""
LEAST_NAME, METRIC = 8, 20
"""The least characters of a task's name, and the most of a metric's."""


def table(shown: Tallies, below: str, servers: Table | None) -> RenderableType:
    """Return the tasks that go on, all of them together, and a line ``below``."""
    parts: list[RenderableType] = [
        _Tasks(shown),
        Text(printable(below), style="dim", overflow="ellipsis", no_wrap=True),
    ]
    return Group(*parts, *([servers] if servers is not None else []))


class _Tasks:
    """The rows of the tasks, laid out for the width that there is."""

    def __init__(self, shown: Tallies) -> None:
        self._shown = shown

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(LEAST_NAME, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        named = width >= NARROW
        heads = ["task", "done", *(["metric"] if named else []), "score", "lost", "left"]
        rows = [
            heads,
            *(_cells(name, tally, self._shown, named) for name, tally in _begun(self._shown)),
            self._all(named),
        ]
        numbers = [max(len(row[place]) for row in rows) for place in range(1, len(heads))]
        name = max(LEAST_NAME, min(max(len(row[0]) for row in rows), width - sum(numbers) - 2 * len(numbers)))
        for number, row in enumerate(rows):
            yield Text(_line(row, [name, *numbers]), style=_style(number, len(rows)), no_wrap=True, overflow="ellipsis")
        if width >= WIDE and self._shown.total:
            yield ProgressBar(self._shown.total, self._shown.earlier + self._shown.done, width=min(width, 2 * NARROW))

    def _all(self, named: bool) -> list[str]:
        shown = self._shown
        left, done = shown.left_s(), shown.earlier + shown.done
        of = "" if shown.total is None else f"/{shown.total:,}"
        lost = sum(tally.lost for tally in shown.tasks.values())
        so_far = [f"all, {short(shown.elapsed_s)}", f"{done:,}{of}", *([""] if named else []), ""]
        return [*so_far, f"{lost:,}", "" if left is None else short(left)]


def _begun(shown: Tallies) -> Sequence[tuple[str, Tally]]:
    return list(shown.tasks.items())[-ROWS:] or [(name, EMPTY) for name in list(shown.totals)[:1]]


def _cells(name: str, tally: Tally, shown: Tallies, named: bool) -> list[str]:
    total = shown.totals.get(name)
    of = "" if total is None else f"/{total:,}"
    mean = "" if tally.mean is None else f"{tally.mean:.3f}"
    cells = [printable(name), f"{tally.done:,}{of}", *([printable(tally.metric or "")[:METRIC]] if named else []), mean]
    return [*cells, f"{tally.lost:,}", _left(tally, total)]


def _left(tally: Tally, total: int | None) -> str:
    if total is None or not tally.done or tally.done >= total:
        return "" if total is None or tally.done < total else "done"
    return short((total - tally.done) * (time.monotonic() - tally.began) / tally.done)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name = cells[0] if len(cells[0]) <= widths[0] else f"{cells[0][: widths[0] - 1]}…"
    rest = (f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([f"{name:<{widths[0]}}", *rest])


def _style(number: int, rows: int) -> str:
    return "dim" if number == 0 else "bold" if number == rows - 1 else ""
