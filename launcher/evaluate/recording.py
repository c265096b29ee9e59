"""Keeps what becomes of the samples of a session: in the journal, in figures, and in front of the user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from launcher.core.traffic import Traffic
from launcher.core.types import Json, Pause, Record, Status
from launcher.evaluate.ask import SampleResult
from launcher.evaluate.failed_exchanges import FailedExchanges
from launcher.evaluate.journal import Journal
from launcher.evaluate.meter import Meter
from launcher.evaluate.progress import Progress
from launcher.evaluate.statistics import Throughput

TOGETHER = 64
"""No more records than these wait to be written."""


class Kept(NamedTuple):
    """A record to be written; ``corrects`` says that its sample was shown as failed."""

    record: Record
    corrects: bool


class Recorder:
    """The journal of a session, what its answers cost and how long they took, and its progress.

    Records of samples that end in one turn of the event loop are written together. They are shown after that, so that a
    killed process loses nothing that was shown.
    """

    def __init__(
        self,
        journal: Journal,
        meter: Meter,
        progress: Progress,
        failed: FailedExchanges | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._journal, self._meter, self._progress, self._failed = journal, meter, progress, failed
        self._traffic = traffic or Traffic()
        self._throughput, self._earlier = Throughput(), 0
        self._waiting: list[Kept] = []
        self._some = asyncio.Event()

    @property
    def exhausted(self) -> str | None:
        """Why no new sample may be asked; None if it may."""
        return self._meter.exhausted

    def begin(self, totals: Mapping[str, int | None]) -> None:
        """Show how many samples there are, and how many are done."""
        self._progress.metered(self._meter.describe)
        began = time.perf_counter()
        self._progress.measured(lambda: self.speed(time.perf_counter() - began))
        self._earlier = len(self._journal.finished)
        self._progress.started(totals, self._earlier)

    def measure(self, result: SampleResult) -> None:
        """Count the answers of an attempt."""
        self._throughput.cached += result.cached
        self._traffic.generated_tokens += sum(timing.completion_tokens or 0 for timing in result.timings)
        if result.record.status is not Status.failed:
            for timing in result.timings:
                self._throughput.add(timing)

    def keep(self, record: Record, first: Record | None) -> None:
        """Take a record, which `writing` writes; ``first`` is that of the first attempt, if there was one."""
        spent = self._meter.taken(record.key)
        record = record if spent is None else replace(record, spent=spent)
        self._waiting.append(Kept(record, first is not None and first.status is Status.failed))
        self._some.set()
        if len(self._waiting) >= TOGETHER:
            self.write()

    async def writing(self) -> None:
        """Write what is kept until this is cancelled. Raises what `write` does."""
        while True:
            await self._some.wait()
            self._some.clear()
            self.write()

    def write(self) -> None:
        """Write and show what is kept so far. Raises `StorageError` and `TakenOver`."""
        waiting, self._waiting = self._waiting, []
        self._journal.add(*[kept.record for kept in waiting])
        for record, corrects in waiting:
            if self._failed is not None:
                self._failed.ended(record)
            self._progress.corrected(record) if corrects else self._progress.advanced(record)

    def close(self, order: Iterable[int], facts: Mapping[str, Json], *, is_whole: bool = False) -> None:
        """Write the samples in their ``order``, which has all if it ``is_whole``, and what is known of the session."""
        try:
            self.write()
        finally:
            self._progress.finished()
        self._journal.close(order, {**facts, "spent": self._meter.spent}, is_whole=is_whole)

    def measured(self, pauses: Sequence[Pause], figures: Mapping[str, Json] | None = None) -> dict[str, Json]:
        """Return the pauses of all sessions, and ``figures`` of this one with what all of them spent."""
        facts: dict[str, Json] = {"pauses": [*self._journal.pauses, *map(asdict, pauses)]}
        found = {**(figures or {}), **self._meter.facts()}
        return {**facts, "throughput": found} if found and figures != {} else facts

    def speed(self, asking_s: float) -> dict[str, Json]:
        """Return the speed of this session, which asked for so many seconds; empty where nothing was asked.

        ``earlier_samples`` are those that earlier sessions finished, which the figures leave out.
        """
        if self._throughput.is_empty:
            return {}
        earlier: dict[str, Json] = {"earlier_samples": self._earlier} if self._earlier else {}
        return self._throughput.facts(asking_s) | earlier
