"""Shows how far an evaluation is."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Protocol

from launcher.core.console import printable
from launcher.core.types import Record, Status

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.table import Table


PAUSE_NOTICE_INTERVAL_S = 10.0
"""Without a live bar, a pause is reported this often."""


class PauseDisplay(Protocol):
    """Shows pauses: `paused` is called repeatedly with the length and the reason, `resumed` once at the end."""

    def paused(self, seconds: float, reason: str) -> None: ...

    def resumed(self, seconds: float) -> None: ...


class Progress(PauseDisplay, Protocol):
    """Shows every finished sample. ``total`` counts all samples, ``done`` those of an earlier session."""

    def started(self, total: int | None, done: int) -> None: ...

    def metered(self, describe: Callable[[], str]) -> None:
        """Show from now on what is spent, as ``describe`` says it; an empty text shows nothing."""

    def advanced(self, record: Record) -> None: ...

    def corrected(self, record: Record) -> None:
        """Show how the second attempt of a sample ended that was shown as failed."""

    def finished(self) -> None: ...


class Servers(Protocol):
    """Describes the servers: in a few words, as a table for a terminal, and those that were lost."""

    def summary(self) -> str: ...

    def table(self) -> Table | None: ...

    def losses(self) -> list[str]: ...


def progress(servers: Servers, stream: IO[str] | None = None) -> Progress:
    """Return a live bar where ``stream`` (standard error) is a terminal, else a line about every tenth of the way."""
    stream = stream or sys.stderr
    return LiveProgress(servers, stream) if stream.isatty() else LineProgress(servers, stream)


class Tally:
    """Counts samples by status and sums their first metric."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self._sum, self._count = 0.0, 0

    def add(self, record: Record) -> None:
        self.ended[record.status.value] += 1
        first = next(iter(record.scores.values()), None)
        if isinstance(first, int | float):  # a metric of the whole corpus has other values
            self._sum += first
            self._count += 1

    def correct(self, record: Record) -> None:
        """Count a sample that counted as failed with how it ended later."""
        self.ended[Status.failed.value] -= 1
        self.add(record)

    def describe(self) -> str:
        """Return for instance ``mean 0.512 · 40 scored · 2 truncated``."""
        mean = [f"mean {self._sum / self._count:.3f}"] if self._count else []
        return " · ".join([*mean, *(f"{self.ended[s.value]} {s.value}" for s in Status if self.ended[s.value])])


class LineProgress:
    """Writes a line at the start, about every tenth of the way, and at the end."""

    def __init__(self, servers: Servers, stream: IO[str]) -> None:
        self._servers = servers
        self._stream = stream
        self._total: int | None = None
        self._done = 0
        self._shown = 0
        self._start = 0.0
        self._told_s: float | None = None
        self._tally = Tally()
        self._spent: Callable[[], str] = str

    def started(self, total: int | None, done: int) -> None:
        self._total, self._done, self._start = total, done, time.monotonic()
        kept = f", {done} already done" if done else ""
        self._say(f"evaluate: {'unknown number of' if total is None else total} samples{kept}")

    def metered(self, describe: Callable[[], str]) -> None:
        self._spent = describe

    def advanced(self, record: Record) -> None:
        self._done += 1
        self._tally.add(record)
        step = 100 if self._total is None else max(1, self._total // 10)
        if self._done // step > self._shown // step:
            self._show()

    def corrected(self, record: Record) -> None:
        self._tally.correct(record)

    def paused(self, seconds: float, reason: str) -> None:
        if self._told_s is None or seconds - self._told_s >= PAUSE_NOTICE_INTERVAL_S:
            self._told_s = seconds
            self._say(f"evaluate: paused{f' {seconds:.0f} s' if seconds >= 1 else ''}: {reason}")

    def resumed(self, seconds: float) -> None:
        self._told_s = None
        self._say(f"evaluate: resumed after a pause of {seconds:.1f} s")

    def finished(self) -> None:
        if self._shown != self._done:
            self._show()

    def _show(self) -> None:
        self._shown = self._done
        of = "" if self._total is None else f" of {self._total}"
        so_far = f"evaluate: {self._done}{of} in {time.monotonic() - self._start:.1f} s"
        said = (so_far, self._tally.describe(), self._spent(), self._servers.summary())
        self._say(" · ".join(filter(None, said)))
        for loss in self._servers.losses():
            self._say(loss)

    def _say(self, line: str) -> None:
        self._stream.write(printable(line) + "\n")
        self._stream.flush()


class LiveProgress:
    """Draws one bar over all tasks, with the time left, the samples by status, and the servers."""

    def __init__(self, servers: Servers, stream: IO[str]) -> None:
        self._servers = servers
        self._stream = stream
        self._bar: Bar | None = None
        self._row: TaskID | None = None
        self._tally = Tally()
        self._spent: Callable[[], str] = str

    def started(self, total: int | None, done: int) -> None:
        self._bar = _bar(self._servers, self._stream)
        self._row = self._bar.add_task("evaluate", total=total, completed=done, tally="")
        self._bar.start()

    def metered(self, describe: Callable[[], str]) -> None:
        self._spent = describe

    def _described(self) -> str:
        return " · ".join(filter(None, (self._tally.describe(), self._spent())))

    def advanced(self, record: Record) -> None:
        self._tally.add(record)
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, advance=1, description=printable(record.task), tally=self._described())

    def corrected(self, record: Record) -> None:
        self._tally.correct(record)
        self._note(self._described())

    def paused(self, seconds: float, reason: str) -> None:
        self._note(f"paused {seconds:.0f} s: {reason}")

    def resumed(self, seconds: float) -> None:
        self._note(self._described())

    def _note(self, text: str) -> None:
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, tally=text)

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(servers: Servers, stream: IO[str]) -> Bar:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    class Live(Bar):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            if (table := servers.table()) is not None:
                yield table

    return Live(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tally]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=5,
    )
