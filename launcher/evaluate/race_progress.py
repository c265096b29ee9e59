"""Shows how far a race is: one line now and then for both models."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import IO

from launcher.core.console import printable
from launcher.core.types import Json, Record

LINES = 10
"""About so many lines are printed, if all questions are asked."""


class RaceProgress:
    """The progress of two evaluations; ``describe`` says where the race stands."""

    def __init__(self, describe: Callable[[], str], stream: IO[str] | None = None) -> None:
        self._describe, self._stream = describe, stream or sys.stderr
        self._total: int | None = None
        self._done, self._shown, self._open = 0, 0, 0
        self._ended: Counter[str] = Counter()

    def of(self, label: str) -> OneProgress:
        """Return the progress of one of the models."""
        self._open += 1
        return OneProgress(self, label)

    def begin(self, label: str, total: int | None, done: int) -> None:
        self._total = None if total is None else 2 * total
        self._done += done
        of = "an unknown number of" if total is None else f"at most {total:,}"
        self.say(f"{label}: {of} samples{f', {done:,} already done' if done else ''}")

    def count(self, record: Record) -> None:
        self._done += 1
        self._ended[record.status.value] += 1
        step = max(1, (self._total or 1_000) // LINES)
        if self._done // step > self._shown // step:
            self._show()

    def end(self) -> None:
        self._open -= 1
        if not self._open:
            self._show()

    def _show(self) -> None:
        self._shown = self._done
        ended = ", ".join(f"{count:,} {status}" for status, count in self._ended.items())
        self.say(" · ".join(filter(None, (f"{self._done:,} answers ({ended})", self._describe()))))

    def say(self, line: str) -> None:
        self._stream.write(printable(f"race: {line}") + "\n")
        self._stream.flush()


class OneProgress:
    """The `launcher.evaluate.progress.Progress` of one of the two models."""

    def __init__(self, race: RaceProgress, label: str) -> None:
        self._race, self._label = race, label

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        known = [size for size in totals.values() if size is not None]
        self._race.begin(self._label, sum(known) if len(known) == len(totals) else None, done)

    def measured(self, speed: Callable[[], Mapping[str, Json]]) -> None:
        """The reports have the speed."""

    def metered(self, describe: Callable[[], str]) -> None:
        """What is spent stands in the reports."""

    def advanced(self, record: Record) -> None:
        self._race.count(record)

    def corrected(self, record: Record) -> None:
        """A second attempt is no further answer."""

    def paused(self, seconds: float, reason: str) -> None:
        if seconds < 1:
            self._race.say(f"{self._label} paused: {reason}")

    def resumed(self, seconds: float) -> None:
        self._race.say(f"{self._label} resumed after a pause of {seconds:.1f} s")

    def finished(self) -> None:
        self._race.end()
