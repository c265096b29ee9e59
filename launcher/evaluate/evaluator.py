"""Asks the samples of all tasks, through the adapters, with bounded concurrency."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.adapters.chain import all_running, pipeline
from launcher.core.client import Client
from launcher.core.errors import TransportError
from launcher.core.lease import Lease
from launcher.core.responses import checking, context_length
from launcher.core.types import Endpoint, Handler, Health, Json, Record, Request, Response, Sample, Status
from launcher.evaluate import outcome
from launcher.evaluate.again import SecondAttempts
from launcher.evaluate.ask import SampleResult, ask
from launcher.evaluate.breaker import CircuitBreaker, NoHealthProbes, ServerGone
from launcher.evaluate.changed_items import reconcile
from launcher.evaluate.concurrency import MOST, START, AdaptiveConcurrency, Gate
from launcher.evaluate.exchange import AnswerTiming, Symptom
from launcher.evaluate.journal import Journal
from launcher.evaluate.meter import Meter
from launcher.evaluate.progress import Progress
from launcher.evaluate.queue import MAX_OUTAGES, SampleQueue
from launcher.evaluate.sample_source import SampleSource
from launcher.evaluate.second_endpoint import Connection, SecondEndpoint, connected
from launcher.evaluate.statistics import throughput
from launcher.settings.evaluate import Evaluate
from launcher.tasks import bounded
from launcher.tasks.base import Task, naming

PROBE_CONNECTIONS = 1
"""A connection beside those of the samples: whether a server answers must be found out while all of them hang."""
COUNTING_S = 2.0
"""Seconds for which an interrupted session makes the rest of its samples, only to count them."""


async def evaluate(
    endpoint: Endpoint,
    tasks: Mapping[str, Task],
    adapters: Sequence[Adapter],
    settings: Evaluate,
    folder: Path,
    fingerprint: Json,
    progress: Progress,
    lease: Lease | None = None,
    deployment: Mapping[str, Json] | None = None,
    health: Health | None = None,
    second: SecondEndpoint | None = None,
) -> outcome.Outcome:
    """Ask every sample that the folder's journal does not hold yet, and return the results of all.

    The samples are in ``samples.jsonl`` as they finish. Cancelling keeps what was done: `outcome.read` returns it, and
    calling this again with the same ``fingerprint`` (what changes answers) continues. ``deployment`` is what adapters
    may know of the server, ``health`` what is known of how it is. While it is gone or restarts, the evaluation pauses;
    if it does not come back, the rest is left unasked. ``second`` is an endpoint that tasks may ask while they score.
    Raises `ResumeError`, `TaskError` when it meets a bad item, and `TakenOver` when another session has taken the
    ``lease``, after keeping what was done.
    """
    await _prepare(tasks, endpoint)
    await asyncio.to_thread(reconcile, folder, tasks, settings, endpoint.model, fingerprint, lease)
    fixed = settings.concurrency if isinstance(settings.concurrency, int) else None
    start, most = (fixed, fixed) if fixed else (START, MOST)
    with Journal(folder, fingerprint, lease) as journal:
        source = SampleSource(tasks, settings, endpoint.model, journal.finished)
        meter = Meter(settings.budget, journal.spent)
        async with (
            _client(endpoint, settings, most) as client,
            all_running(adapters, folder, deployment) as failures,
            bounded.running(),
            connected(second, progress, meter.around) as others,
        ):
            model, watched = endpoint.model, health or NoHealthProbes()
            samples, requests = Gate(start), Gate(start)
            adaptive = None if fixed else AdaptiveConcurrency(samples, requests)
            measured = meter.around(adaptive.around(client) if adaptive else client)
            breaker = CircuitBreaker(measured, client.patient(), model, watched, settings.max_pause_s, progress)
            handler = _bounded(pipeline(adapters, checking(breaker), failures), requests)
            again = await _second_attempts(settings, client, endpoint)
            session = _Session(
                breaker, handler, tasks, source, journal, progress, again, meter, others, samples, adaptive
            )
            await session.run(settings, start, most)
    return outcome.read(folder, tasks)


class _Session:
    """One session over the samples that are left."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        handler: Handler,
        tasks: Mapping[str, Task],
        source: SampleSource,
        journal: Journal,
        progress: Progress,
        again: SecondAttempts,
        meter: Meter,
        others: Mapping[str, Connection],
        gate: Gate,
        adaptive: AdaptiveConcurrency | None,
    ) -> None:
        self._gate, self._adaptive = gate, adaptive
        self._again, self._meter, self._others = again, meter, others
        self._breaker, self._handler, self._tasks = breaker, handler, tasks
        self._source, self._journal, self._progress = source, journal, progress
        self._timings: list[AnswerTiming] = []
        self._cached = 0
        self._accept_missing_finish, self._score_timeout_s = False, math.inf
        self._store_prompt_logprobs = False

    async def run(self, settings: Evaluate, first: int, most: int) -> None:
        totals = await asyncio.to_thread(self._source.totals, complete=False)
        known = [size for size in totals.values() if size is not None]
        self._progress.started(sum(known) if len(known) == len(totals) else None, len(self._journal.finished))
        start, stopped = time.perf_counter(), None
        self._accept_missing_finish = settings.accept_missing_finish
        self._score_timeout_s = settings.score_timeout_s
        self._store_prompt_logprobs = settings.store_prompt_logprobs
        try:
            stopped = await self._all(first, most)
            await asyncio.to_thread(self._source.totals, complete=True)
        finally:
            facts: dict[str, Json] = {"totals": self._final_totals(), "stopped": stopped, "spent": self._meter.spent}
            self._progress.finished()
            self._journal.close(list(self._source.order), facts | self._measured(time.perf_counter() - start))

    def _final_totals(self) -> dict[str, int | None]:
        """Return the totals, also of a session that was cancelled or met a bad item; None where they are not known."""
        with suppress(Exception):  # a task that raises while its samples are made has no total
            self._source.totals(complete=True, within_s=COUNTING_S)
        return self._source.totals(complete=False)

    def _measured(self, wall_s: float) -> dict[str, Json]:
        """Return the pauses, and the speed outside of them."""
        pauses = self._breaker.pauses
        every = [*pauses, *(pause for other in self._others.values() for pause in other.pauses)]
        facts: dict[str, Json] = {"pauses": [*self._journal.pauses, *map(asdict, every)]}
        if self._timings or self._cached:
            asking_s = wall_s - sum(pause.seconds for pause in pauses)
            facts["throughput"] = throughput(self._timings, asking_s, self._cached) | self._meter.facts()
            facts["throughput"] |= self._adaptive.facts() if self._adaptive else {}
        return facts

    async def _all(self, first: int, most: int) -> str | None:
        """Ask until nothing is left; return the reason if it stopped before that."""
        samples = SampleQueue(self._source, first)
        try:
            async with asyncio.TaskGroup() as group:
                guards = [group.create_task(guard()) for guard in self._guards()]
                async with asyncio.TaskGroup() as workers:
                    for _ in range(most):
                        workers.create_task(self._work(samples))
                for guard in guards:
                    guard.cancel()
        except ExceptionGroup as group:
            cause = _first(group)
            if isinstance(cause, ServerGone):
                return str(cause)
            raise cause from None
        return samples.stopped

    def _guards(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        return [self._breaker.guard, *(other.guard for other in self._others.values())]

    async def _work(self, samples: SampleQueue) -> None:
        while True:
            await self._breaker.closed()
            async with self._gate:
                samples.stop(self._meter.exhausted)
                sample = await samples.take()
                if sample is None:
                    return
                await self._attempt(sample, samples)

    async def _attempt(self, sample: Sample, samples: SampleQueue) -> None:
        result = await ask(
            self._handler,
            sample,
            self._tasks[sample.task],
            accept_missing_finish=self._accept_missing_finish,
            score_timeout_s=self._score_timeout_s,
            store_prompt_logprobs=self._store_prompt_logprobs,
            others=self._others,
        )
        if not await self._requeue(result, sample, samples):
            self._end(result, sample, samples)

    async def _requeue(self, result: SampleResult, sample: Sample, samples: SampleQueue) -> bool:
        """Requeue the sample if the server caused its failure, or may have."""
        if result.symptom in (Symptom.away, Symptom.forgotten):
            return samples.requeue(sample, outage=result.symptom is Symptom.away)
        if result.symptom is Symptom.none:
            return False
        away = await self._breaker.outage(result.path, result.began)
        return (away or result.symptom is Symptom.outage) and samples.requeue(sample)

    def _end(self, result: SampleResult, sample: Sample, samples: SampleQueue) -> None:
        """Record how an attempt ended; the sample is done, unless it gets a second attempt."""
        given_up = samples.outages(sample) >= MAX_OUTAGES
        record = _given_up(result.record) if given_up else result.record
        self._measure(result)
        first = self._again.first(sample)
        again = None if given_up else self._again.of(sample, record)
        if again is None or record.status is Status.failed:
            self._keep(self._again.joined(record), first)
        if again is not None:
            samples.again(again, last=record.status is Status.failed)
            return
        self._again.forget(sample)
        if first is not None and first.status is Status.failed:
            samples.changed(sample, better=record.status is not Status.failed)
        samples.done()

    def _keep(self, record: Record, first: Record | None) -> None:
        record = replace(record, spent=self._meter.taken(record.key))
        self._journal.add(record)
        if first is not None and first.status is Status.failed:
            self._progress.corrected(record)
        else:
            self._progress.advanced(record)

    def _measure(self, result: SampleResult) -> None:
        self._breaker.progressed()
        self._cached += result.cached
        if result.record.status is not Status.failed:
            self._timings += result.timings


async def _prepare(tasks: Mapping[str, Task], endpoint: Endpoint) -> None:
    for name, task in tasks.items():
        with naming(name):
            await asyncio.to_thread(task.prepare, endpoint)


def _client(endpoint: Endpoint, settings: Evaluate, concurrency: int) -> Client:
    max_bytes = int(settings.max_answer_mb * 2**20)
    connections = concurrency + PROBE_CONNECTIONS
    return Client(endpoint, timeout_s=settings.timeout_s, concurrency=connections, max_bytes=max_bytes)


async def _second_attempts(settings: Evaluate, client: Client, endpoint: Endpoint) -> SecondAttempts:
    """Return who decides on second attempts; only one with more tokens needs to know how many the model takes."""
    again = SecondAttempts(settings.retry_truncated, settings.retry_failed)
    if settings.retry_truncated is not None:
        with suppress(TransportError):
            again.context = context_length((await client.get(f"{endpoint.url}/models")).body, endpoint.model)
    return again


def _bounded(handler: Handler, gate: Gate) -> Handler:
    """Return a handler behind the gate: one sample may send several requests at a time."""

    async def handle(request: Request) -> Response:
        async with gate:
            return await handler(request)

    return handle


def _given_up(record: Record) -> Record:
    return replace(record, reason=f"{record.reason}; it was asked {MAX_OUTAGES} times")


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group, or of a group in it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
