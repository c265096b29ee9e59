from __future__ import annotations

import asyncio
from contextlib import suppress

from launcher.adapters.circuit_breaker import CircuitBreaker
from launcher.core.errors import TransportError
from launcher.core.types import Request, Response
from tests import virtual_time

REQUEST = Request("/v1/completions", {})


class Server:
    """Answers while ``works``, else breaks the connection or answers as a gateway."""

    def __init__(self, *, gateway=False):
        self.works, self.asked, self.gateway = False, 0, gateway

    async def __call__(self, request):
        self.asked += 1
        await asyncio.sleep(1)
        if self.works:
            return Response(200, {})
        if self.gateway:
            return Response(502, {})
        raise TransportError("gone")


async def statuses(adapter, server, number):
    found = []
    for _ in range(number):
        with suppress(TransportError):
            found.append((await adapter(REQUEST, server)).status)
    return found


def test_it_opens_after_failures_in_a_row_and_closes_when_one_request_is_answered():
    async def scenario():
        breaker, server = CircuitBreaker(failures=3, reset_s=10), Server()
        assert await statuses(breaker, server, 5) == [503, 503]
        assert server.asked == 3
        refusal = await breaker(REQUEST, server)
        assert refusal.headers == {"Retry-After": "10"}
        await asyncio.sleep(10)
        assert await statuses(breaker, server, 3) == [503, 503], "the trial failed"
        assert server.asked == 4
        await asyncio.sleep(10)
        server.works = True
        assert await statuses(breaker, server, 3) == [200, 200, 200]

    virtual_time.run(scenario())


def test_one_trial_goes_out_at_a_time():
    async def scenario():
        breaker, server = CircuitBreaker(failures=1, reset_s=1), Server(gateway=True)
        assert await statuses(breaker, server, 1) == [502]
        await asyncio.sleep(2)
        server.works = True
        answers = await asyncio.gather(*(breaker(REQUEST, server) for _ in range(4)))
        assert [answer.status for answer in answers] == [200, 503, 503, 503]

    virtual_time.run(scenario())


def test_failures_that_are_not_in_a_row_leave_it_closed():
    async def scenario():
        breaker, server = CircuitBreaker(failures=2), Server()
        for works in (False, True, False, True, False):
            server.works = works
            await statuses(breaker, server, 1)
        assert server.asked == 5

    virtual_time.run(scenario())


def test_a_cancelled_trial_lets_another_one_go():
    async def scenario():
        breaker, server = CircuitBreaker(failures=1, reset_s=1), Server()
        await statuses(breaker, server, 1)
        await asyncio.sleep(2)
        trial = asyncio.create_task(breaker(REQUEST, server))
        await asyncio.sleep(0.5)
        trial.cancel()
        await asyncio.wait([trial])
        server.works = True
        assert (await breaker(REQUEST, server)).status == 200

    virtual_time.run(scenario())
