"""Asks one sample, which always ends in exactly one status."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from launcher.adapters.base import closing
from launcher.core.console import one_line
from launcher.core.errors import AdapterError, Failure, ServerAway, TransportError
from launcher.core.records import made
from launcher.core.responses import NO_FINISH, checked, is_page, quoted, refuses
from launcher.core.types import GATEWAY, Handler, Json, Record, Response, Sample, Score, Status
from launcher.tasks.base import Task

log = logging.getLogger(__name__)

ABOUT_THE_PROMPT = frozenset({400, 403, 413, 422})
"""HTTP statuses with which a server refuses this very request; any other error is a failure of the service.

So is one of these that comes in another shape than OpenAI's: a proxy's page says nothing about the request.
"""
KEPT = 100_000
"""Characters of the JSON of an answer with a fault that are kept: a server must not fill the disk with them."""
QUOTED = 500
"""Characters of an error that a reason quotes."""


class Trouble(Enum):
    """What a failed request may say of the server."""

    none = "none"
    """Nothing."""
    broken = "broken"
    """It may be broken for every request: a 5xx, an answer that is none, or the page of a proxy before it."""
    late = "late"
    """It may hang: the answer took too long."""
    outage = "outage"
    """It may be gone: no connection, one that broke, or a status of `GATEWAY`."""
    away = "away"
    """It was gone, or restarting: the request is to be asked again."""
    forgotten = "forgotten"
    """It has lost the request: the same."""


@dataclass(frozen=True)
class SampleResult:
    """A finished sample. ``cached`` says that no server was needed."""

    record: Record
    trouble: Trouble = Trouble.none
    cached: bool = False


async def ask(handler: Handler, sample: Sample, task: Task, *, accept_missing_finish: bool = False) -> SampleResult:
    """Send the sample's request and score the answer, if it has no fault. Raises nothing but cancellation."""
    start = time.perf_counter()
    try:
        response = checked(sample.request, await handler(sample.request))
    except Exception as error:
        score = Score(Status.failed, reason=_explained(error, sample))
        return SampleResult(made(sample, score, None, time.perf_counter() - start), _trouble(error))
    latency_s = time.perf_counter() - start
    score = await _judged(response, sample, task, accept_missing_finish)
    record = made(sample, score, _kept(response), latency_s, response.notes or ())
    return SampleResult(record, _trouble_of(response), response.cached)


def _kept(response: Response) -> Json:
    """Return the body for ``samples.jsonl``; of one that is of no use the beginning, if it is large."""
    if response.ok and response.fault is None:
        return response.body
    text = json.dumps(response.body, ensure_ascii=False)
    return response.body if len(text) <= KEPT else f"{text[:KEPT]}... ({len(text) - KEPT:,} characters are left out)"


def _by_proxy(response: Response) -> bool:
    return response.status in ABOUT_THE_PROMPT and not refuses(response)


async def _judged(response: Response, sample: Sample, task: Task, accept_missing_finish: bool) -> Score:
    if response.events is not None:
        async with closing(response.events):
            return Score(Status.failed, reason="the answer is a stream; an evaluation needs whole answers")
    if not response.ok:
        refused = response.status in ABOUT_THE_PROMPT and refuses(response)
        status = Status.refused if refused else Status.failed
        return Score(status, reason=f"HTTP {response.status}: {_message(response.body)}")
    if response.fault is not None:
        return Score(Status.failed, reason=one_line(response.fault, QUOTED))
    if NO_FINISH in (response.notes or ()) and not accept_missing_finish and not sample.request.body.get("echo"):
        return Score(Status.failed, reason=f"{NO_FINISH}; evaluate.accept_missing_finish=true scores it nevertheless")
    try:
        return task.score(sample, response)
    except Exception as error:
        log.exception("%s: scoring failed", sample.key)
        return Score(Status.failed, reason=one_line(f"scoring failed: {type(error).__name__}: {error}", QUOTED))


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, ServerAway):
        return Trouble.away if error.outage else Trouble.forgotten
    return _TROUBLES[error.failure] if isinstance(error, TransportError) else Trouble.none


_TROUBLES = {
    Failure.connection: Trouble.outage,
    Failure.timeout: Trouble.late,
    Failure.answer: Trouble.broken,
}


def _trouble_of(response: Response) -> Trouble:
    if response.status in GATEWAY:
        return Trouble.outage
    return Trouble.broken if response.status >= 500 or is_page(response) or _by_proxy(response) else Trouble.none


def _explained(error: Exception, sample: Sample) -> str:
    if isinstance(error, TransportError | ServerAway | AdapterError):
        return one_line(str(error), QUOTED)
    log.error("%s: %s: %s", sample.key, type(error).__name__, error, exc_info=error)
    return one_line(f"{type(error).__name__}: {error}", QUOTED)


def _message(body: Json) -> str:
    """Return the message of an error in OpenAI's shape, or in vLLM's old one, or the body as it is."""
    error = (body.get("error") or body.get("message")) if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    said = message or body
    return one_line(said if isinstance(said, str) else quoted(said), QUOTED)
