"""Asks the samples of all tasks, through the adapters, with bounded concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.adapters.base import Adapter
from launcher.adapters.chain import all_running, pipeline
from launcher.core.client import Client
from launcher.core.errors import TransportError
from launcher.core.lease import Lease
from launcher.core.responses import checking, context_length
from launcher.core.types import Endpoint, Health, Json
from launcher.evaluate.again import SecondAttempts
from launcher.evaluate.asker import Asker
from launcher.evaluate.breaker import CircuitBreaker, NoHealthProbes
from launcher.evaluate.changed_items import reconcile
from launcher.evaluate.concurrency import Concurrency
from launcher.evaluate.drawn_source import DrawnSource
from launcher.evaluate.early_stop import Stop
from launcher.evaluate.failed_exchanges import FailedExchanges
from launcher.evaluate.journal import Journal
from launcher.evaluate.meter import Meter
from launcher.evaluate.next_token import by_next_token
from launcher.evaluate.progress import Progress
from launcher.evaluate.recording import Recorder
from launcher.evaluate.sample_source import SampleSource
from launcher.evaluate.second_endpoint import SecondEndpoint, connected
from launcher.evaluate.session import Session
from launcher.evaluate.stored_lines import StoredLines
from launcher.settings.evaluate import Evaluate
from launcher.tasks import bounded
from launcher.tasks.base import Task, naming

PROBE_CONNECTIONS = 1
"""A connection beside those of the samples: whether a server answers must be found out while all of them hang."""


async def ask_all(
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
    lines: StoredLines | None = None,
    stop: Stop | None = None,
    next_tokens: bool = False,
) -> str | None:
    """Ask every sample that the folder's journal does not hold yet; return why some were left, None if none were.

    The samples are in ``samples.jsonl`` as they finish. Cancelling keeps what was done: `outcome.read` returns it, and
    calling this again with the same ``fingerprint`` (what changes answers) continues. ``deployment`` is what adapters
    may know of the server, ``health`` what is known of how it is. While it is gone or restarts, the evaluation pauses;
    if it does not come back, the rest is left unasked. ``second`` is an endpoint that tasks may ask while they score.
    ``lines`` is what was read of the samples before. With ``stop``, samples are asked in a random order, until it needs
    no more. With ``next_tokens``, choices of one token are asked without an echo.

    Raises `ResumeError`, `TaskError` when it meets a bad item, and `TakenOver` when another session has taken the
    ``lease``, after keeping what was done.
    """
    await _prepare(tasks, endpoint)
    await asyncio.to_thread(reconcile, folder, tasks, settings, endpoint.model, fingerprint, lease)
    concurrency = Concurrency(settings.concurrency)
    with Journal(folder, fingerprint, lease, lines) as journal:
        given = tasks, settings, endpoint.model, journal.finished, journal.keys
        source = SampleSource(*given) if stop is None else DrawnSource(*given, stop, folder)
        meter = Meter(settings.budget, journal.spent)
        async with (
            _client(endpoint, settings, concurrency.most) as client,
            all_running(adapters, folder, deployment) as failures,
            bounded.running(),
            connected(second, progress, meter.around) as others,
        ):
            measured, watched = meter.around(concurrency.measured(client)), health or NoHealthProbes()
            breaker = CircuitBreaker(
                measured, client.patient(), endpoint.model, watched, settings.max_pause_s, progress
            )
            failed = FailedExchanges(folder, settings.keep_failures)
            adapted = pipeline(adapters, failed.around(checking(breaker)), failures)
            handler = concurrency.bounded(by_next_token(adapted, client, endpoint) if next_tokens else adapted)
            again = await _second_attempts(settings, client, endpoint)
            asker = Asker(handler, breaker, others, tasks, settings)
            recorder = Recorder(journal, meter, progress, failed, watched.traffic)
            return await Session(asker, source, again, recorder, concurrency).run()


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
