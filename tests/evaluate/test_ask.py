from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from launcher.core.errors import AdapterError, Failure, ServerAway, TransportError
from launcher.core.types import Record, Response, Status
from launcher.evaluate.ask import ask
from tests.evaluate.evaluation_server import Echoes

TASK = Echoes(1)
[SAMPLE] = TASK.samples("t", "m")
GOOD = {"index": 0, "text": "0", "finish_reason": "stop"}


async def asked(answer):
    async def handler(request):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return await ask(handler, SAMPLE, TASK)


@pytest.mark.parametrize(
    ("answer", "status", "symptom", "reason"),
    [
        (Response(200, {"choices": [GOOD]}), Status.scored, "none", None),
        (Response(200, {}), Status.failed, "none", "the answer has no list of 'choices'"),
        (Response(400, {"error": {"message": "too long"}}), Status.refused, "none", "HTTP 400: too long"),
        (Response(400, {"object": "error", "message": "too long"}), Status.refused, "none", "HTTP 400: too long"),
        (Response(422, {"detail": "bad"}), Status.failed, "broken", "HTTP 422: {'detail': 'bad'}"),
        (Response(403, {"error": {"message": "<p>", "type": "http_error"}}), Status.failed, "broken", "HTTP 403: <p>"),
        (Response(401, {"error": "no key"}), Status.failed, "none", "HTTP 401: no key"),
        (Response(500, None), Status.failed, "broken", "HTTP 500: None"),
        (Response(502, "gone"), Status.failed, "outage", "HTTP 502: gone"),
        (Response(503, {}), Status.failed, "outage", "HTTP 503: {}"),
        (TransportError("refused", Failure.connection), Status.failed, "outage", "refused"),
        (TransportError("late", Failure.timeout), Status.failed, "late", "late"),
        (TransportError("no JSON"), Status.failed, "broken", "no JSON"),
        (ServerAway("gone"), Status.failed, "away", "gone"),
        (ServerAway("forgotten", outage=False), Status.failed, "forgotten", "forgotten"),
        (AdapterError("cannot"), Status.failed, "none", "cannot"),
        (KeyError("x"), Status.failed, "none", "KeyError: 'x'"),
    ],
)
async def test_each_end_has_one_status_and_a_reason(answer, status, symptom, reason):
    found = await asked(answer)
    assert (found.record.status, found.symptom.value, found.record.reason) == (status, symptom, reason)
    assert found.record.responses == (getattr(answer, "body", None),)
    assert bool(found.record.scores) == (status is Status.scored)
    assert found.record.latency_s >= 0
    assert {*vars(found.record)} == {field.name for field in fields(Record)}


async def test_cancellation_is_no_end():
    with pytest.raises(asyncio.CancelledError):
        await asked(asyncio.CancelledError())


async def test_a_stream_is_closed():
    closed = []

    async def events():
        try:
            yield 1
        finally:
            closed.append(True)

    stream = events()
    await anext(stream)
    found = await asked(Response(200, events=stream))
    assert (found.record.status, closed) == (Status.failed, [True])
