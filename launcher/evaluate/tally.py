"""Counts the samples of an evaluation while it goes on: for each task, and in all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from launcher.core import stage
from launcher.core.types import Json, Record, Status


class Tally:
    """Counts the samples of one task by status, and sums their first metric."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.metric: str | None = None
        self.began = time.monotonic()
        self._sum, self._count = 0.0, 0

    def add(self, record: Record) -> None:
        self.ended[record.status.value] += 1
        name, first = next(iter(record.scores.items()), (None, None))
        if isinstance(first, int | float):  # a metric of the whole corpus has other values
            self.metric = name
            self._sum += first
            self._count += 1

    def correct(self, record: Record) -> None:
        """Count a sample that counted as failed with how it ended later."""
        self.ended[Status.failed.value] -= 1
        self.add(record)

    @property
    def done(self) -> int:
        return self.ended.total()

    @property
    def lost(self) -> int:
        return self.done - self.ended[Status.scored.value]

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None

    def facts(self, total: int | None) -> stage.TaskProgress:
        ended = {status: count for status, count in self.ended.items() if count}
        return {"total": total, "ended": ended, "metric": self.metric, "mean": self.mean, "n": self._count}

    def describe(self) -> str:
        """Return for instance ``exact_match 0.512 · 40 scored · 2 truncated``."""
        mean = [] if self.mean is None else [f"{self.metric} {self.mean:.3f}"]
        return " · ".join([*mean, *(f"{self.ended[s.value]} {s.value}" for s in Status if self.ended[s.value])])


EMPTY = Tally()
"""A task that has not begun."""


class Tallies:
    """The tallies of all tasks, and the time that is left."""

    def __init__(self) -> None:
        self.totals: Mapping[str, int | None] = {}
        self.total: int | None = 0
        self.tasks: dict[str, Tally] = {}
        self.earlier = self.done = 0
        self.latest = ""
        self._start = time.monotonic()
        self._speed: Callable[[], Mapping[str, Json]] = dict
        self._spent: Callable[[], str] = str
        self._pause = ""

    def started(self, totals: Mapping[str, int | None], done: int) -> None:
        self.totals, self.earlier, self._start = totals, done, time.monotonic()
        known = [size for size in totals.values() if size is not None]
        self.total = sum(known) if len(known) == len(totals) else None

    def measured(self, speed: Callable[[], Mapping[str, Json]]) -> None:
        self._speed = speed

    def metered(self, describe: Callable[[], str]) -> None:
        self._spent = describe

    def advanced(self, record: Record) -> None:
        self.done += 1
        self.latest = record.task
        self._of(record).add(record)

    def corrected(self, record: Record) -> None:
        self._of(record).correct(record)

    def _of(self, record: Record) -> Tally:
        if record.task not in self.tasks:
            self.tasks[record.task] = Tally()
        return self.tasks[record.task]

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def left_s(self) -> float | None:
        """Return the seconds left at the speed so far; None where that is not known."""
        left = None if self.total is None else self.total - self.earlier - self.done
        return None if left is None or not self.done else left * self.elapsed_s / self.done

    def ended(self) -> str:
        """Return how all samples ended, for instance ``40 scored · 2 truncated``."""
        every = sum((tally.ended for tally in self.tasks.values()), Counter[str]())
        return " · ".join(f"{every[status.value]:,} {status.value}" for status in Status if every[status.value])

    def facts(self) -> Mapping[str, Json]:
        """Return the fields of ``stage.json`` that an evaluation has."""
        done, names = self.earlier + self.done, dict.fromkeys([*self.totals, *self.tasks])
        tasks = {name: self.tasks.get(name, EMPTY).facts(self.totals.get(name)) for name in names}
        facts = {"done": done, "total": self.total, "unit": "samples", "earlier": self.earlier, "tasks": tasks}
        return {**facts, "throughput": self._speed(), "note": self._spent(), "pause": self._pause}


def short(seconds: float) -> str:
    """Return a time in at most six characters, for instance ``0:07``, ``12:34`` or ``3 h 05``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 100 else f"{hours // 24} d"
