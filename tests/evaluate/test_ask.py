from __future__ import annotations

import asyncio

import pytest
from evaluation_server import Echoes

from launcher.core import Response, Status
from launcher.errors import AdapterError, Failure, ServerAway, TransportError
from launcher.evaluate.ask import ask

TASK = Echoes(1)
[SAMPLE] = TASK.samples("t", "m")


async def asked(answer):
    async def handler(request):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return await ask(handler, SAMPLE, TASK)


@pytest.mark.parametrize(
    ("answer", "status", "outage", "reason"),
    [
        (Response(200, {"choices": [{"text": "0"}]}), Status.scored, False, None),
        (Response(200, {}), Status.failed, False, "scoring failed: KeyError: 'choices'"),
        (Response(400, {"error": {"message": "too long"}}), Status.refused, False, "HTTP 400: too long"),
        (Response(422, {"detail": "bad"}), Status.refused, False, "HTTP 422: {'detail': 'bad'}"),
        (Response(401, {"error": "no key"}), Status.failed, False, "HTTP 401: no key"),
        (Response(500, None), Status.failed, False, "HTTP 500: None"),
        (Response(502, "gone"), Status.failed, True, "HTTP 502: gone"),
        (Response(503, {}), Status.failed, True, "HTTP 503: {}"),
        (TransportError("refused", Failure.connection), Status.failed, True, "refused"),
        (TransportError("late", Failure.timeout), Status.failed, False, "late"),
        (TransportError("no JSON"), Status.failed, False, "no JSON"),
        (ServerAway("gone"), Status.failed, True, "gone"),
        (ServerAway("forgotten", outage=False), Status.failed, False, "forgotten"),
        (AdapterError("cannot"), Status.failed, False, "cannot"),
        (KeyError("x"), Status.failed, False, "KeyError: 'x'"),
    ],
)
async def test_each_end_has_one_status_and_a_reason(answer, status, outage, reason):
    found = await asked(answer)
    assert (found.record.status, found.outage, found.record.reason) == (status, outage, reason)
    assert found.record.response == getattr(answer, "body", None)
    assert bool(found.record.scores) == (status is Status.scored)
    assert found.record.latency_s >= 0


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
