"""Asks one sample, which always ends in exactly one status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_

from launcher.core.console import one_line
from launcher.core.errors import AdapterStop
from launcher.core.responses import check, token_count
from launcher.core.types import Handler, Json, Record, Response, Sample, Score, Status, is_object
from launcher.core.values import made
from launcher.evaluate.exchange import (
    MAX_QUOTED_CHARACTERS,
    Answering,
    AnswerTiming,
    Exchange,
    NoAnswer,
    Symptom,
    plain,
)
from launcher.evaluate.faults import fault_of
from launcher.evaluate.score_clock import ScoreClock
from launcher.tasks.base import Task

log = logging.getLogger(__name__)

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True)
class SampleResult:
    """A finished sample.

    ``symptom`` is what a failed request, sent to ``path``, tells of the server. The sample ``began`` at that time on
    the clock of `time.monotonic`. ``timings`` are those of the answers that a server gave; ``cached`` counts the
    others.
    ``is_final`` says that asking again does not help: the answers are there, and their scoring failed.
    """

    record: Record
    symptom: Symptom = Symptom.none
    path: str = ""
    began: float = 0.0
    timings: tuple[AnswerTiming, ...] = ()
    cached: int = 0
    is_final: bool = False


async def ask(
    handler: Handler,
    sample: Sample,
    task: Task,
    *,
    accept_missing_finish: bool = False,
    score_timeout_s: float | None = None,
    store_prompt_logprobs: bool = False,
    others: Mapping[str, Answering] | None = None,
) -> SampleResult:
    """Send the sample's requests and score the answers, if none has a fault.

    Raises nothing but cancellation and `AdapterStop`.

    ``others`` are the endpoints beside the run's own that the task may name while it scores. The record of a scored
    sample has what the task keeps of the answers; with ``store_prompt_logprobs``, all of them.
    """
    began = time.monotonic()
    exchange = Exchange(handler, sample, accept_missing_finish, others or {}, ScoreClock(score_timeout_s))
    symptom, path = Symptom.none, ""
    try:
        score = await _scored(exchange, task)
    except NoAnswer as error:
        score, symptom, path = error.score, error.symptom, error.path
    bodies = tuple([exchange.bodies.get(index) for index in range(len(sample.requests))])
    is_kept_whole = store_prompt_logprobs or score.status is not Status.scored
    record = _record(sample, score, exchange, bodies if is_kept_whole else kept(task, sample, bodies), _usage(bodies))
    return SampleResult(record, symptom, path, began, tuple(exchange.timings), exchange.cached, score.is_final)


async def _scored(exchange: Exchange, task: Task) -> Score:
    """Return the task's score. Raises `NoAnswer` if a request has none, also where the task caught that error."""
    responses = await exchange.send()
    cancelled_before = _cancellations()  # not 0 where an earlier `asyncio.TaskGroup` failed, up to Python 3.12
    try:
        score: object = await exchange.clock.run(task.score(exchange.sample, responses, exchange.ask))
        fault = fault_of(score, task)
    except AdapterStop:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _cancellations() > cancelled_before:
            raise
        fault = exchange.clock.fault or f"{type(error).__name__}: {error}"
        if exchange.lost is None and exchange.clock.fault is None:
            log.exception("%s: scoring failed", exchange.sample.key)
    if exchange.lost is not None:
        raise exchange.lost
    if fault is not None or not isinstance(score, Score):
        reason = one_line(f"scoring failed: {fault}", MAX_QUOTED_CHARACTERS)
        return Score(Status.failed, reason=reason, is_final=exchange.clock.fault is None)
    return score if score.reason is None else replace(score, reason=one_line(score.reason, MAX_QUOTED_CHARACTERS))


def _cancellations() -> int:
    """Return how often this sample was cancelled from outside; a scoring may cancel tasks of its own."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _record(sample: Sample, score: Score, exchange: Exchange, responses: tuple[Json, ...], usage: Json) -> Record:
    """Return the record of a sample that ended with ``score``; responses are the bodies as the adapters gave them."""
    return made(
        Record,
        task=sample.task,
        id=sample.id,
        repeat=sample.repeat,
        requests=tuple(map(plain, sample.requests)),
        responses=responses,
        prediction=score.prediction,
        target=sample.target,
        scores=score.scores,
        status=score.status,
        usage=usage,
        latency_s=round(exchange.latency_s, 6),
        reason=score.reason,
        notes=(*exchange.notes, *score.notes),
        scoring=tuple(exchange.scoring),
        earlier=(),
        spent=None,
        cluster=sample.cluster,
        category=sample.category,
        request_ids=exchange.request_ids() if score.status in (Status.failed, Status.refused) else (),
    )


def kept(task: Task, sample: Sample, bodies: tuple[Json, ...]) -> tuple[Json, ...]:
    """Return what is stored of the answers: what the task keeps, where that is an answer without a fault too."""
    try:
        found = tuple(task.kept(sample, bodies))
        if len(found) == len(bodies) and all(map(is_, found, bodies)):
            return bodies
        if len(found) == len(bodies) and getattr(task.kept, "is_faultless", False):
            return found
        faults = [check(*each).fault for each in zip(sample.requests, map(_ok, found), strict=True)]
    except Exception:  # the code of a task
        log.exception("%s: what is kept of its answers cannot be made; all is kept", sample.key)
        return bodies
    return found if not any(faults) else bodies


def _ok(body: Json) -> Response:
    return Response(200, body)


def _usage(responses: Sequence[Json]) -> Json:
    """Return the usage as the server gave it; of several responses the sums, None where one has no counts."""
    found = [response.get("usage") if is_object(response) else None for response in responses]
    if len(found) == 1:
        return found[0]
    counts = {name: [token_count(usage, name) for usage in found] for name in COUNTS}
    if None in counts["prompt_tokens"] or None in counts["completion_tokens"]:
        return None
    return {name: sum(each or 0 for each in counted) for name, counted in counts.items()}
