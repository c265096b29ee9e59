"""One session of an evaluation: workers ask the samples that are left, until none is or a server is gone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

from launcher.core.types import Json, Record, Sample, Status
from launcher.evaluate.again import SecondAttempts
from launcher.evaluate.ask import SampleResult
from launcher.evaluate.asker import Asker
from launcher.evaluate.breaker import ServerGone
from launcher.evaluate.concurrency import Concurrency
from launcher.evaluate.exchange import Symptom
from launcher.evaluate.queue import MAX_OUTAGES, SampleQueue
from launcher.evaluate.recording import Recorder
from launcher.evaluate.sample_source import SampleSource

COUNTING_S = 2.0
"""Seconds for which an interrupted session makes the rest of its samples, only to count them."""


class Session:
    """Asks the samples of ``source`` by ``asker``, some of them ``again``; ``recorder`` keeps what they come to."""

    def __init__(
        self, asker: Asker, source: SampleSource, again: SecondAttempts, recorder: Recorder, concurrency: Concurrency
    ) -> None:
        self._asker, self._source, self._again = asker, source, again
        self._recorder, self._concurrency = recorder, concurrency

    async def run(self) -> str | None:
        """Ask all samples; return why some were left, None if none were.

        Raises what a task raises while its samples are made, after keeping what was done.
        """
        self._recorder.begin(await asyncio.to_thread(self._source.totals, complete=False))
        start, stopped = time.perf_counter(), None
        try:
            stopped = await self._all()
            await asyncio.to_thread(self._source.totals, complete=True)
            return stopped
        finally:
            facts = {"totals": self._final_totals(), "stopped": stopped, **self._source.facts()}
            measured = self._measured(time.perf_counter() - start)
            self._recorder.close(self._source.order, facts | measured, is_whole=self._source.all_made)

    def _final_totals(self) -> dict[str, int | None]:
        """Return the totals, also of a session that was cancelled or met a bad item; None where they are not known."""
        with suppress(Exception):  # a task that raises while its samples are made has no total
            self._source.totals(complete=True, within_s=COUNTING_S)
        return self._source.totals(complete=False)

    def _measured(self, wall_s: float) -> dict[str, Json]:
        paused_s = sum(pause.seconds for pause in self._asker.breaker.pauses)
        speed = self._recorder.speed(wall_s - paused_s)
        return self._recorder.measured(self._asker.pauses, speed and {**speed, **self._concurrency.facts()})

    async def _all(self) -> str | None:
        """Ask until nothing is left; return the reason if it stopped before that."""
        samples = SampleQueue(self._source, self._concurrency.start)
        self._source.on_change(samples.wake)
        try:
            async with asyncio.TaskGroup() as group:
                guards = [group.create_task(guard()) for guard in (*self._asker.guards, self._recorder.writing)]
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self._concurrency.most):
                        workers.create_task(self._work(samples))
                self._recorder.write()
                for guard in guards:
                    guard.cancel()
        except ExceptionGroup as group:
            cause = _first(group)
            if isinstance(cause, ServerGone):
                return str(cause)
            raise cause from None
        return samples.stopped

    async def _work(self, samples: SampleQueue) -> None:
        gate = self._concurrency.samples
        while True:
            await self._asker.breaker.closed()
            if not gate.enter_at_once():
                await gate.enter()
            try:
                samples.stop(self._recorder.exhausted)
                sample = await samples.take()
                if sample is None:
                    return
                await self._attempt(sample, samples)
            finally:
                gate.leave()

    async def _attempt(self, sample: Sample, samples: SampleQueue) -> None:
        result = await self._asker.ask(sample)
        if result.symptom is Symptom.none or not await self._requeue(result, sample, samples):
            self._end(result, sample, samples)

    async def _requeue(self, result: SampleResult, sample: Sample, samples: SampleQueue) -> bool:
        """Requeue the sample if the server caused its failure, or may have."""
        if result.symptom in (Symptom.away, Symptom.forgotten):
            return samples.requeue(sample, outage=result.symptom is Symptom.away)
        return await self._asker.away(result) and samples.requeue(sample)

    def _end(self, result: SampleResult, sample: Sample, samples: SampleQueue) -> None:
        """Record how an attempt ended; the sample is done, unless it gets a second attempt."""
        given_up = samples.outages(sample) >= MAX_OUTAGES
        record = _given_up(result.record) if given_up else result.record
        self._asker.breaker.progressed()
        self._recorder.measure(result)
        first = self._again.first(sample)
        again = None if given_up or result.is_final else self._again.of(sample, record)
        if again is None or record.status is Status.failed:
            self._recorder.keep(self._again.joined(record), first)
            self._source.note(record)
        if again is not None:
            samples.again(again, last=record.status is Status.failed)
            return
        self._again.forget(sample)
        if first is not None and first.status is Status.failed:
            samples.changed(sample, better=record.status is not Status.failed)
        samples.done()


def _given_up(record: Record) -> Record:
    return replace(record, reason=f"{record.reason}; it was asked {MAX_OUTAGES} times")


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group, or of a group in it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
