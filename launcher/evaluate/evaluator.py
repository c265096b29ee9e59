"""Asks the samples of all tasks, through the adapters, with bounded concurrency."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.adapters.base import Adapter, all_running, pipeline
from launcher.claim import Claim
from launcher.client import Client
from launcher.core import Endpoint, Handler, Json, Record
from launcher.evaluate import outcome
from launcher.evaluate.ask import Asked, ask
from launcher.evaluate.journal import Journal
from launcher.evaluate.progress import Progress
from launcher.evaluate.questions import Questions
from launcher.evaluate.settings import Evaluate
from launcher.evaluate.statistics import throughput
from launcher.tasks.base import Task

OUTAGES = 5
"""After so many samples in a row that met no service, the server is asked whether it lives."""


async def evaluate(
    endpoint: Endpoint,
    tasks: Mapping[str, Task],
    adapters: Sequence[Adapter],
    settings: Evaluate,
    folder: Path,
    fingerprint: Json,
    progress: Progress,
    claim: Claim | None = None,
    deployment: Mapping[str, Json] | None = None,
) -> outcome.Outcome:
    """Ask every sample that the folder's journal does not hold yet, and return what came of all of them.

    The samples are in ``samples.jsonl`` as they finish. Cancelling keeps what was done: `outcome.read` returns it, and
    calling this again with the same ``fingerprint`` (what changes answers) continues. ``deployment`` is what adapters
    may know of the server. If that dies, the rest is left unasked. Raises `ResumeError`, `TaskError` when it meets a
    bad item, and `TakenOver` when another session has got the ``claim``, after keeping what was done.
    """
    with Journal(folder, fingerprint, claim) as journal:
        questions = Questions(tasks, settings, endpoint.model, journal.finished)
        async with (
            Client(endpoint, timeout_s=settings.timeout_s, concurrency=settings.concurrency) as client,
            all_running(adapters, folder, deployment),
        ):
            await _Session(client, pipeline(adapters, client), tasks, questions, journal, progress).run(settings)
    return outcome.read(folder)


class _ServerGone(Exception):
    """The server does not answer any more; the message says since when."""


class _Session:
    """One go at the samples that are left."""

    def __init__(
        self,
        client: Client,
        handler: Handler,
        tasks: Mapping[str, Task],
        questions: Questions,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._client, self._handler, self._tasks = client, handler, tasks
        self._questions, self._journal, self._progress = questions, journal, progress
        self._answered: list[Record] = []
        self._cached = 0
        self._outages = 0

    async def run(self, settings: Evaluate) -> None:
        totals = await asyncio.to_thread(self._questions.totals, complete=False)
        known = [size for size in totals.values() if size is not None]
        self._progress.started(sum(known) if len(known) == len(totals) else None, len(self._journal.finished))
        start, stopped = time.perf_counter(), None
        try:
            stopped = await self._all(settings.concurrency)
            totals = await asyncio.to_thread(self._questions.totals, complete=True)
        finally:
            facts: dict[str, Json] = {"totals": _counted(totals, self._questions.order), "stopped": stopped}
            if self._answered or self._cached:
                facts["throughput"] = throughput(self._answered, time.perf_counter() - start, self._cached)
            self._progress.finished()
            self._journal.close(list(self._questions.order), facts)

    async def _all(self, concurrency: int) -> str | None:
        """Ask until nothing is left; return the reason if it stopped before that."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._work())
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if isinstance(first, _ServerGone):
                return str(first)
            raise first from None
        return None

    async def _work(self) -> None:
        while (sample := await self._questions.take()) is not None:
            asked = await ask(self._handler, sample, self._tasks[sample.task])
            self._journal.add(asked.record)
            self._note(asked)
            self._progress.advanced(asked.record)
            await self._heed(asked.outage, asked.record.reason)

    def _note(self, asked: Asked) -> None:
        if asked.cached:
            self._cached += 1
        else:
            self._answered.append(replace(asked.record, request=None, response=None))

    async def _heed(self, outage: bool, reason: str | None) -> None:
        """Raise `_ServerGone` after `OUTAGES` samples in a row without service, if the server is not alive either."""
        self._outages = self._outages + 1 if outage else 0
        if self._outages >= OUTAGES and (down := await self._client.down()) is not None:
            failed = f"{self._outages} samples in a row failed, last: {reason}"
            raise _ServerGone(f"the server stopped answering: {down}; {failed}")


def _counted(totals: Mapping[str, int | None], order: Mapping[str, None]) -> dict[str, int]:
    """Return the totals, and for a task whose size is unknown the number of samples that were made."""
    made = Counter(key.split("/", 1)[0] for key in list(order))
    return {name: made[name] if size is None else size for name, size in totals.items()}
