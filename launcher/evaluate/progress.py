"""Shows how far an evaluation is: in all, and for each task."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Protocol

from launcher.core import stage
from launcher.core.console import printable, redraws
from launcher.core.types import Json, Record
from launcher.evaluate.tally import Tallies, short

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table


PAUSE_NOTICE_INTERVAL_S = 10.0
"""Without a live table, a pause is reported this often."""
QUIET_S = 30.0
"""Without a live table, at least one line comes in this time."""


class PauseDisplay(Protocol):
    """Shows pauses: `paused` is called repeatedly with the length and the reason, `resumed` once at the end."""

    def paused(self, seconds: float, reason: str) -> None: ...

    def resumed(self, seconds: float) -> None: ...


class Progress(PauseDisplay, Protocol):
    """Shows every finished sample.

    ``totals`` has the samples of each task, None where that is not known yet. ``done`` counts those of earlier
    sessions.
    """

    def started(self, totals: Mapping[str, int | None], done: int) -> None: ...

    def measured(self, speed: Callable[[], Mapping[str, Json]]) -> None:
        """Take from now on what the speed is, for ``stage.json``."""

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
    """Return a live table where ``stream`` (standard error) is a terminal that redraws, else lines now and then."""
    stream = stream or sys.stderr
    shown = LiveProgress(servers, stream) if redraws(stream) else LineProgress(servers, stream)
    if (board := stage.current()) is not None:
        board.facts, board.tick = shown.facts, shown.tick
    return shown


class LineProgress(Tallies):
    """Writes a line at the start, about every tenth of the way, every `QUIET_S` seconds, and at the end."""

    def __init__(self, servers: Servers, stream: IO[str]) -> None:
        super().__init__()
        self._servers = servers
        self._stream = stream
        self._shown = 0
        self._shown_at_s = time.monotonic()
        self._told_s: float | None = None

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        super().started(totals, done)
        kept = f", {done} already done" if done else ""
        self._say(f"evaluate: {'unknown number of' if self.total is None else self.total} samples{kept}")

    def advanced(self, record: Record) -> None:
        super().advanced(record)
        step, done = 100 if self.total is None else max(1, self.total // 10), self.earlier + self.done
        if done // step > self._shown // step:
            self._show()

    def paused(self, seconds: float, reason: str) -> None:
        self._pause = reason
        if self._told_s is None or seconds - self._told_s >= PAUSE_NOTICE_INTERVAL_S:
            self._told_s = seconds
            self._say(f"evaluate: paused{f' {seconds:.0f} s' if seconds >= 1 else ''}: {reason}")

    def resumed(self, seconds: float) -> None:
        self._told_s, self._pause = None, ""
        self._say(f"evaluate: resumed after a pause of {seconds:.1f} s")

    def tick(self) -> None:
        """Show that the evaluation goes on, also while no sample ends."""
        if time.monotonic() - self._shown_at_s > QUIET_S:
            self._show()

    def finished(self) -> None:
        if self._shown != self.earlier + self.done:
            self._show()

    def _show(self) -> None:
        self._shown = self.earlier + self.done
        of = "" if self.total is None else f" of {self.total}"
        left = self.left_s()
        so_far = f"evaluate: {self._shown}{of} in {self.elapsed_s:.1f} s" + (f", {short(left)} left" if left else "")
        now = self.tasks.get(self.latest)
        task = f"{self.latest}: {now.describe()}" if now and len(self.tasks) > 1 else now.describe() if now else ""
        every = f"in all {self.ended()}" if len(self.tasks) > 1 else ""
        self._say(" · ".join(filter(None, (so_far, task, every, self._spent(), self._servers.summary()))))
        for loss in self._servers.losses():
            self._say(loss)

    def _say(self, line: str) -> None:
        self._shown_at_s = time.monotonic()
        self._stream.write(printable(line) + "\n")
        self._stream.flush()


class LiveProgress(Tallies):
    """Draws a table with a row for each task that goes on, and one for all of them."""

    def __init__(self, servers: Servers, stream: IO[str]) -> None:
        super().__init__()
        self._servers = servers
        self._stream = stream
        self._live: Live | None = None

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        from rich.console import Console
        from rich.live import Live

        super().started(totals, done)
        console = Console(file=self._stream)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=5, redirect_stdout=_shared())
        self._live.start()

    def paused(self, seconds: float, reason: str) -> None:
        self._pause = f"paused {seconds:.0f} s: {reason}"

    def resumed(self, seconds: float) -> None:
        self._pause = ""

    def tick(self) -> None:
        """Nothing is to do: the table redraws itself."""

    def finished(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _table(self) -> RenderableType:
        from launcher.evaluate.progress_table import table

        below = " · ".join(filter(None, (self.ended(), self._spent())))
        return table(self, stage.title() + (self._pause or below), self._servers.table())


def _shared() -> bool:
    """Tell whether standard output is a terminal, on which the table would be in its way."""
    return sys.stdout.isatty()
