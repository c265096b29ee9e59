"""The requests of one sample and their responses."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from launcher.adapters.base import closing
from launcher.core import request_id, token_times
from launcher.core.console import one_line
from launcher.core.errors import AdapterError, AdapterStop, Failure, ServerAway, TransportError
from launcher.core.responses import NO_FINISH, checked, error_message, is_page, quoted, refuses, token_count
from launcher.core.types import GATEWAY, Handler, Json, Request, Response, Sample, Score, Status, is_object
from launcher.evaluate.score_clock import ScoreClock

log = logging.getLogger(__name__)

PROMPT_REFUSALS = frozenset({400, 403, 413, 422})
"""HTTP statuses with which a server refuses this very request; any other error is a failure of the service.

One of these in another shape than OpenAI's is a failure too: a proxy's page says nothing about the request.
"""
MAX_KEPT_CHARACTERS = 100_000
"""Characters of the JSON of an answer with a fault that are kept: a server must not fill the disk with them."""
MAX_QUOTED_CHARACTERS = 500
"""Characters of an error that a reason quotes."""


class Symptom(Enum):
    """What a failed request may tell of the server."""

    none = "none"
    """Nothing."""
    broken = "broken"
    """It may be broken for every request: a 5xx, an answer that is none, or the page of a proxy before it."""
    late = "late"
    """It may hang: the answer took too long."""
    outage = "outage"
    """It may be gone: no connection, one that broke, or a status of `GATEWAY`."""
    away = "away"
    """It was gone, or restarting: the request is to be sent again."""
    forgotten = "forgotten"
    """It has lost the request, which is to be sent again."""


class NoAnswer(Exception):
    """A request to ``path`` without an answer that can be scored.

    ``score`` says how its sample ends, ``symptom`` what that tells of the server.
    """

    def __init__(self, score: Score, symptom: Symptom, path: str) -> None:
        super().__init__(score.reason)
        self.score, self.symptom, self.path = score, symptom, path


@dataclass(frozen=True, slots=True)
class AnswerTiming:
    """An answer of the server: the seconds it took, and the token counts that can be right.

    ``scored_prompts`` are those whose log-probabilities it has; 0 for an answer that was generated. Of that, ``ttft_s``
    and ``tpot_s`` are the times to the first token and per token after it, where the server says them.
    """

    latency_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    scored_prompts: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None


class Answering(Protocol):
    """An endpoint beside the run's own."""

    @property
    def model(self) -> str:
        """The name of its model, for requests that name none."""

    @property
    def handler(self) -> Handler: ...


@dataclass
class Exchange:
    """Sends the requests of a sample, and those of its scoring, and keeps what comes back.

    ``others`` are the endpoints beside the run's own that the scoring may name, ``clock`` bounds it.
    ``bodies`` are the responses by the
    place of their request, ``timings`` those that a server gave; ``cached`` counts the others. ``scoring`` has an entry
    for each request of the scoring, which count nowhere else; ``lost`` is the error of the first without an answer.
    """

    handler: Handler
    sample: Sample
    accept_missing_finish: bool = False
    others: Mapping[str, Answering] = field(default_factory=dict)
    clock: ScoreClock = field(default_factory=ScoreClock)
    latency_s: float = 0.0
    bodies: dict[int, Json] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    timings: list[AnswerTiming] = field(default_factory=list)
    cached: int = 0
    scoring: list[dict[str, Json]] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)
    lost: NoAnswer | None = None

    async def send(self) -> Sequence[Response]:
        """Send all requests and return their responses in the same order.

        Raises `NoAnswer` for the first that cannot be scored; the others are then cancelled.
        """
        start = time.perf_counter()
        try:
            if len(self.sample.requests) == 1:
                return [await self._own(0, self.sample.requests[0])]
            return await self._together()
        finally:
            self.latency_s = time.perf_counter() - start

    async def ask(self, request: Request, endpoint: str | None = None) -> Response:
        """Send a request of the scoring, see `launcher.core.types.Ask`."""
        if endpoint is not None and endpoint not in self.others:
            known = ", ".join(self.others) or "none, as this run has its own endpoint only"
            raise LookupError(f"no endpoint is named {endpoint!r}; expected one of: {known}")
        other = None if endpoint is None else self.others[endpoint]
        handler = self.handler if other is None else other.handler
        request = request if other is None else addressed(request, other.model)
        index = len(self.sample.requests) + len(self.scoring)
        request = replace(request, sample=self.sample.key, index=index)
        entry = {"endpoint": endpoint, "request": plain(request), "response": None}
        self.scoring.append(entry)
        try:
            with self.clock.stopped():
                response = await _received(handler, request)
            entry["response"] = _kept(response)
            await self._check(response, request)
        except NoAnswer as error:  # another endpoint's symptom says nothing of the run's own
            lost = error if endpoint is None else _lost_by(endpoint, error)
            self.lost = self.lost or lost
            raise lost from None
        return response

    async def _together(self) -> Sequence[Response]:
        try:
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(self._own(*numbered)) for numbered in enumerate(self.sample.requests)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in sent]

    async def _own(self, index: int, request: Request) -> Response:
        start = time.perf_counter()
        response = await _received(self.handler, request)
        if not response.ok and (id := request_id.answered(response.headers)) is not None:
            self.ids[index] = id
        self.bodies[index] = _kept(response)
        self.notes |= dict.fromkeys(response.notes or ())
        if response.cached:
            self.cached += 1
        else:
            self.timings.append(_timing(request, response, time.perf_counter() - start))
        await self._check(response, request)
        return response

    def request_ids(self) -> tuple[str, ...]:
        """Return the ids of the sample's own requests: those of the answers, where the server gave one to an error."""
        sent = (request_id.of(request) for request in self.sample.requests)
        return tuple(self.ids.get(index) or id or "" for index, id in enumerate(sent))

    async def _check(self, response: Response, request: Request) -> None:
        """Raise `NoAnswer` for a response that cannot be scored."""
        accept = self.accept_missing_finish or bool(request.body.get("echo"))
        score = await _fault(response, accept_missing_finish=accept)
        if score is not None:
            raise NoAnswer(score, _symptom_of(response), request.path)


def addressed(request: Request, model: str) -> Request:
    """Return the request with the name of a model, if it has none."""
    return request if "model" in request.body else replace(request, body={"model": model, **request.body})


def _lost_by(endpoint: str, error: NoAnswer) -> NoAnswer:
    """Return the error of another endpoint by its name; its symptom says nothing of the run's own."""
    score = replace(error.score, reason=f"{endpoint}: {error.score.reason}")
    return NoAnswer(score, Symptom.none, error.path)


def plain(request: Request) -> dict[str, Json]:
    """Return the request as records have it."""
    return {"path": request.path, "body": request.body}


async def _received(handler: Handler, request: Request) -> Response:
    """Return the answer, checked. Raises `NoAnswer` where there is none, and `AdapterStop`."""
    try:
        return checked(request, await handler(request))
    except AdapterStop:
        raise
    except Exception as error:
        score = Score(Status.failed, reason=_explained(error, request))
        raise NoAnswer(score, _symptom(error), request.path) from None


def _timing(request: Request, response: Response, latency_s: float) -> AnswerTiming:
    usage = response.body.get("usage") if is_object(response.body) else None
    prompt, completion = token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens")
    if request.body.get("echo"):
        return AnswerTiming(latency_s, prompt, completion, _prompts(request.body.get("prompt")))
    headers, seconds = response.headers, token_times.seconds
    first, each = seconds(headers, token_times.FIRST), seconds(headers, token_times.EACH)
    return AnswerTiming(latency_s, prompt, completion, 0, first, each)


def _prompts(prompt: Json) -> int:
    """Return how many prompts a request has: a text, token ids, or a list of them."""
    return len(prompt) if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else 1


def _kept(response: Response) -> Json:
    """Return the body for ``samples.jsonl``; a large body with a fault is cut."""
    if response.ok and response.fault is None:
        return response.body
    text = json.dumps(response.body, ensure_ascii=False)
    return (
        response.body
        if len(text) <= MAX_KEPT_CHARACTERS
        else f"{text[:MAX_KEPT_CHARACTERS]}... ({len(text) - MAX_KEPT_CHARACTERS:,} characters are left out)"
    )


def _by_proxy(response: Response) -> bool:
    return response.status in PROMPT_REFUSALS and not refuses(response)


async def _fault(response: Response, *, accept_missing_finish: bool) -> Score | None:
    """Return how a sample ends with this response, None if it can be scored."""
    if response.events is not None:
        async with closing(response.events):
            return Score(Status.failed, reason="the answer is a stream; an evaluation needs whole answers")
    if not response.ok:
        refused = response.status in PROMPT_REFUSALS and refuses(response)
        status = Status.refused if refused else Status.failed
        return Score(status, reason=f"HTTP {response.status}: {_message(response.body)}")
    if response.fault is not None:
        return Score(Status.failed, reason=one_line(response.fault, MAX_QUOTED_CHARACTERS))
    if NO_FINISH in (response.notes or ()) and not accept_missing_finish:
        return Score(Status.failed, reason=f"{NO_FINISH}; evaluate.accept_missing_finish=true scores it nevertheless")
    return None


def _symptom(error: Exception) -> Symptom:
    if isinstance(error, ServerAway):
        return Symptom.away if error.outage else Symptom.forgotten
    return _SYMPTOMS[error.failure] if isinstance(error, TransportError) else Symptom.none


_SYMPTOMS = {
    Failure.connection: Symptom.outage,
    Failure.timeout: Symptom.late,
    Failure.answer: Symptom.broken,
}


def _symptom_of(response: Response) -> Symptom:
    if response.status in GATEWAY:
        return Symptom.outage
    return Symptom.broken if response.status >= 500 or is_page(response) or _by_proxy(response) else Symptom.none


def _explained(error: Exception, request: Request) -> str:
    if isinstance(error, TransportError | ServerAway | AdapterError):
        return one_line(str(error), MAX_QUOTED_CHARACTERS)
    log.error("%s: %s: %s", request.sample, type(error).__name__, error, exc_info=error)
    return one_line(f"{type(error).__name__}: {error}", MAX_QUOTED_CHARACTERS)


def _message(body: Json) -> str:
    """Return the message of an error, or else the body."""
    return one_line(error_message(body) or (body if isinstance(body, str) else quoted(body)), MAX_QUOTED_CHARACTERS)
