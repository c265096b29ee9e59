"""Scores stored answers again, without the server that gave them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from launcher.core.lease import Lease
from launcher.core.types import Handler, Json, Record, Sample, Status
from launcher.evaluate.ask import ask
from launcher.evaluate.breaker import ServerGone
from launcher.evaluate.journal import Journal
from launcher.evaluate.meter import Meter
from launcher.evaluate.progress import Progress
from launcher.evaluate.recording import Recorder
from launcher.evaluate.sample_source import SampleSource
from launcher.evaluate.second_endpoint import Connection, SecondEndpoint, connected
from launcher.evaluate.stored_answers import (
    Comparison,
    StoredAnswers,
    answering,
    difference,
    is_answered,
    is_prompt,
    model_of,
    with_stored_requests,
)
from launcher.settings.evaluate import Evaluate
from launcher.tasks import bounded
from launcher.tasks.base import Task

JUDGE = "judge"
NO_ANSWER = "there is no answer"
CONCURRENCY = 32
"""Samples that are scored at the same time, where no judge is asked, which takes fewer."""


def compare(stored: StoredAnswers, tasks: Mapping[str, Task], settings: Evaluate, model: str) -> Comparison:
    """Compare the requests of all samples of now with the stored ones."""
    found = Comparison()
    for sample in SampleSource(tasks, settings, model, ()).every():
        record = stored.get(sample.key)
        changes = [NO_ANSWER] if record is None else difference(sample, record)
        if any(map(is_prompt, changes)):
            found.prompts.append(sample.key)
        elif changes:
            found.reasons[", ".join(changes)] += 1
        else:
            found.same += 1
    found.gone = sum(map(stored.count, tasks)) - (found.same + len(found.prompts) + _answered(found))
    return found


def _answered(found: Comparison) -> int:
    return sum(count for reason, count in found.reasons.items() if reason != NO_ANSWER)


def asked_the_same(stored: StoredAnswers, name: str, task: Task, settings: Evaluate, model: str) -> list[str]:
    """Return the stored tasks that were asked what the first sample of a task asks."""
    first = next(SampleSource({name: task}, settings, model, ()).every())
    records = {other: stored.get(f"{other}/{first.id}/{first.repeat}") for other in stored.tasks}
    return [other for other, record in records.items() if record is not None and not difference(first, record)]


async def rescore(
    stored: StoredAnswers,
    count: int,
    tasks: Mapping[str, Task],
    settings: Evaluate,
    model: str,
    folder: Path,
    fingerprint: Json,
    progress: Progress,
    lease: Lease,
    judge: SecondEndpoint | None,
) -> None:
    """Score each stored answer whose request is that of a sample of now, ``count`` in all.

    What was scored stays when it is interrupted, and is not scored again. A sample without a usable answer keeps the
    status that it had. Raises `ResumeError`, `TaskError` and `TakenOver` as an evaluation does.
    """
    with Journal(folder, fingerprint, lease) as journal:
        concurrency = judge.concurrency if judge is not None else CONCURRENCY
        each = replace(settings, concurrency=concurrency)
        source = SampleSource(tasks, each, model, journal.finished, journal.keys)
        meter = Meter(settings.budget, journal.spent)
        async with bounded.running(), connected(judge, progress, meter.around) as others:
            recorder = Recorder(journal, meter, progress)
            await _Session(stored, tasks, settings, source, recorder, others).run(count, concurrency)


class _Session:
    def __init__(
        self,
        stored: StoredAnswers,
        tasks: Mapping[str, Task],
        settings: Evaluate,
        source: SampleSource,
        recorder: Recorder,
        others: Mapping[str, Connection],
    ) -> None:
        self._stored, self._tasks, self._settings, self._source = stored, tasks, settings, source
        self._recorder, self._others = recorder, others
        self._stopped = False

    async def run(self, count: int, concurrency: int) -> None:
        self._recorder.begin({"all": count})
        stopped: str | None = None
        try:
            stopped = await self._all(concurrency)
        finally:
            with suppress(Exception):  # a task that raises while its samples are made has no total
                self._source.totals(complete=True)
            pauses = [pause for other in self._others.values() for pause in other.pauses]
            facts: dict[str, Json] = {"totals": self._source.totals(complete=False), "stopped": stopped}
            self._recorder.close(self._source.order, facts | self._recorder.measured(pauses))

    async def _all(self, concurrency: int) -> str | None:
        """Score all samples; return the reason if that stopped early."""
        try:
            async with asyncio.TaskGroup() as group:
                guards = [group.create_task(guard()) for guard in (*self._guards(), self._recorder.writing)]
                async with asyncio.TaskGroup() as workers:
                    for _ in range(concurrency):
                        workers.create_task(self._work())
                self._recorder.write()
                for guard in guards:
                    guard.cancel()
        except ExceptionGroup as group:
            first: Exception = group
            while isinstance(first, ExceptionGroup):
                first = first.exceptions[0]
            if isinstance(first, ServerGone):
                return str(first)
            raise first from None
        return self._recorder.exhausted if self._stopped else None

    def _guards(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        return [other.guard for other in self._others.values()]

    async def _work(self) -> None:
        while (sample := await self._source.take()) is not None:
            if self._recorder.exhausted:
                self._stopped = True
                return
            stored = self._stored.get(sample.key)
            if stored is not None and not difference(sample, stored):
                record = await self._scored(sample, stored) if is_answered(stored) else _kept(sample, stored)
                self._recorder.keep(record, None)

    async def _scored(self, sample: Sample, stored: Record) -> Record:
        result = await ask(
            answering(stored),
            with_stored_requests(sample, stored),
            self._tasks[sample.task],
            accept_missing_finish=self._settings.accept_missing_finish,
            score_timeout_s=self._settings.score_timeout_s,
            store_prompt_logprobs=self._settings.store_prompt_logprobs,
            others=self._others or _stored_judge(stored),
        )
        return replace(result.record, latency_s=stored.latency_s, usage=stored.usage, earlier=stored.earlier)


def _stored_judge(stored: Record) -> Mapping[str, Connection]:
    """Return a judge that says again what it said, for a run without one."""
    model = model_of(stored, JUDGE)
    handler: Handler = answering(stored, JUDGE)
    return {JUDGE: Connection(JUDGE, model, handler)} if model else {}


def _kept(sample: Sample, stored: Record) -> Record:
    """Return the record of a sample without a usable answer."""
    status = stored.status if stored.status is not Status.scored else Status.failed
    return replace(stored, task=sample.task, target=sample.target, prediction=None, scores={}, status=status)
