"""Asks one sample, which always ends in exactly one status."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from launcher.adapters.base import closing
from launcher.core import GATEWAY, Handler, Json, Record, Response, Sample, Score, Status
from launcher.errors import AdapterError, Failure, ServerAway, TransportError
from launcher.evaluate.records import made
from launcher.tasks.base import Task

log = logging.getLogger(__name__)

ABOUT_THE_PROMPT = frozenset({400, 403, 413, 422})
"""HTTP statuses with which a server refuses this very request; any other error is a failure of the service."""
QUOTED = 500
"""Characters of an error that a reason quotes."""


class Trouble(Enum):
    """What a failed request may say of the server."""

    none = "none"
    """Nothing."""
    broken = "broken"
    """It may be broken for every request: a 5xx, or an answer that is none."""
    outage = "outage"
    """It may be gone: no connection, one that broke, or a status of `GATEWAY`."""
    away = "away"
    """It was gone, or restarting: the request is to be asked again."""
    forgotten = "forgotten"
    """It has lost the request: the same."""


@dataclass(frozen=True)
class Asked:
    """A finished sample. ``cached`` says that no server was needed."""

    record: Record
    trouble: Trouble = Trouble.none
    cached: bool = False


async def ask(handler: Handler, sample: Sample, task: Task) -> Asked:
    """Send the sample's request and score the answer. Raises nothing but cancellation."""
    start = time.perf_counter()
    try:
        response = await handler(sample.request)
    except Exception as error:
        score = Score(Status.failed, reason=_explained(error, sample))
        return Asked(made(sample, score, None, time.perf_counter() - start), _trouble(error))
    latency_s = time.perf_counter() - start
    score = await _judged(response, sample, task)
    return Asked(made(sample, score, response.body, latency_s), _trouble_of(response.status), response.cached)


async def _judged(response: Response, sample: Sample, task: Task) -> Score:
    if response.events is not None:
        async with closing(response.events):
            return Score(Status.failed, reason="the answer is a stream; an evaluation needs whole answers")
    if not response.ok:
        status = Status.refused if response.status in ABOUT_THE_PROMPT else Status.failed
        return Score(status, reason=f"HTTP {response.status}: {_message(response.body)}")
    try:
        return task.score(sample, response)
    except Exception as error:
        log.exception("%s: scoring failed", sample.key)
        return Score(Status.failed, reason=f"scoring failed: {type(error).__name__}: {error}"[:QUOTED])


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, ServerAway):
        return Trouble.away if error.outage else Trouble.forgotten
    if not isinstance(error, TransportError) or error.failure is Failure.timeout:
        return Trouble.none
    return Trouble.outage if error.failure is Failure.connection else Trouble.broken


def _trouble_of(status: int) -> Trouble:
    if status in GATEWAY:
        return Trouble.outage
    return Trouble.broken if status >= 500 else Trouble.none


def _explained(error: Exception, sample: Sample) -> str:
    if isinstance(error, TransportError | ServerAway | AdapterError):
        return str(error)[:QUOTED]
    log.error("%s: %s: %s", sample.key, type(error).__name__, error, exc_info=error)
    return f"{type(error).__name__}: {error}"[:QUOTED]


def _message(body: Json) -> str:
    """Return the message of an error in OpenAI's shape, or the body as it is."""
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    return str(message or body)[:QUOTED]
