"""Asks one sample, which always ends in exactly one status."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.adapters.base import closing
from launcher.core import Handler, Json, Record, Response, Sample, Score, Status
from launcher.errors import AdapterError, Failure, ServerAway, TransportError
from launcher.evaluate.breaker import GATEWAY
from launcher.evaluate.records import made
from launcher.tasks.base import Task

log = logging.getLogger(__name__)

ABOUT_THE_PROMPT = frozenset({400, 403, 413, 422})
"""HTTP statuses with which a server refuses this very request; any other error is a failure of the service."""
QUOTED = 500
"""Characters of an error that a reason quotes."""


@dataclass(frozen=True)
class Asked:
    """A finished sample.

    ``outage`` says that the service may be gone (no connection, one that broke, or a 502, 503, 504); ``lost`` that the
    server was away, or lost the request, so that it is to be asked again. ``cached`` says that no server was needed.
    """

    record: Record
    outage: bool
    cached: bool = False
    lost: bool = False


async def ask(handler: Handler, sample: Sample, task: Task) -> Asked:
    """Send the sample's request and score the answer. Raises nothing but cancellation."""
    start = time.perf_counter()
    try:
        response = await handler(sample.request)
    except Exception as error:
        score = Score(Status.failed, reason=_explained(error, sample))
        record = made(sample, score, None, time.perf_counter() - start)
        return Asked(record, _outage(error), lost=isinstance(error, ServerAway))
    latency_s = time.perf_counter() - start
    score = await _judged(response, sample, task)
    return Asked(made(sample, score, response.body, latency_s), response.status in GATEWAY, response.cached)


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


def _outage(error: Exception) -> bool:
    if isinstance(error, ServerAway):
        return error.outage
    return isinstance(error, TransportError) and error.failure is Failure.connection


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
