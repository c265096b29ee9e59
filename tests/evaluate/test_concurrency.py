"""The requests in flight follow what a server can take, in simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from launcher.adapters.retry import Retry
from launcher.core.types import Request, Response
from launcher.evaluate.concurrency import MOST, AdaptiveConcurrency, Gate
from tests import virtual_time

TOKENS_PER_S = 50.0


@dataclass
class Simulated:
    """A server with ``knee`` places, each with a fixed speed; further requests queue, or are refused above ``most``."""

    knee: int
    most: int = 10**9
    noise: float = 0.0
    shifts: Callable[[int], int] | None = None
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    done: int = 0
    tokens: int = 0
    inside: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.places = Gate(self.knee)

    async def __call__(self, request: Request) -> Response:
        if self.inside >= self.most:
            self.refused += 1
            return Response(429, {"error": {"message": "busy"}})
        self.inside += 1
        try:
            async with self.places:
                tokens = round(self.draw.choice((20, 100, 400)))
                await asyncio.sleep(tokens / TOKENS_PER_S * self.draw.lognormvariate(0, self.noise))
        finally:
            self.inside -= 1
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        if self.shifts:
            self.knee = self.shifts(self.done)
            self.places.resize(self.knee)
        return Response(200, {"usage": {"prompt_tokens": 10, "completion_tokens": tokens}})


async def asked(server: Simulated, count: int, limit: int | None = None) -> tuple[AdaptiveConcurrency | None, float]:
    """Ask so many requests; return the controller, and the tokens per second."""
    gate = Gate(limit or 16)
    control = None if limit else AdaptiveConcurrency(gate)
    inner, retry = control.around(server) if control else server, Retry(deadline_s=10**6, max_delay_s=2)
    left = iter(range(count))

    async def work() -> None:
        while True:
            async with gate:
                if next(left, None) is None:
                    return
                assert (await retry(Request("/v1/completions", {}), inner)).ok

    start = asyncio.get_running_loop().time()
    await asyncio.gather(*(work() for _ in range(limit or MOST)))
    return control, server.tokens / (asyncio.get_running_loop().time() - start)


def compared(make: Callable[[], Simulated], count: int, best: int) -> tuple[AdaptiveConcurrency, float]:
    """Return the controller, and its throughput relative to that of the best fixed concurrency."""
    control, found = virtual_time.run(asked(make(), count))
    _, fixed = virtual_time.run(asked(make(), count, best))
    assert control is not None
    return control, found / fixed


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["steady", "noisy"])
@pytest.mark.parametrize(("knee", "count"), [(1, 4000), (8, 6000), (64, 15_000), (200, 40_000)])
def test_it_finds_the_knee(knee, count, noise):
    control, share = compared(lambda: Simulated(knee, noise=noise), count, knee)
    assert knee / 1.5 <= control.knee._base <= 3 * knee
    assert share >= 0.9


def test_it_stays_below_a_hard_limit():
    server = Simulated(16, most=16)
    control, found = virtual_time.run(asked(server, 8000))
    _, fixed = virtual_time.run(asked(Simulated(16, most=16), 8000, 16))
    assert 10 <= control.knee._base <= 16
    assert found / fixed >= 0.9
    assert server.refused < 0.05 * server.done


@pytest.mark.parametrize(("before", "after"), [(8, 64), (64, 8)])
def test_it_follows_a_knee_that_moves(before, after):
    control, _ = virtual_time.run(
        asked(Simulated(before, shifts=lambda done: before if done < 8000 else after), 30_000)
    )
    assert after / 1.5 <= control.knee._base <= 3 * after


async def test_a_gate_that_shrinks_lets_none_in_until_enough_have_left():
    gate = Gate(2)
    for _ in range(2):
        await gate.__aenter__()
    gate.resize(1)
    waiting = asyncio.create_task(gate.__aenter__())
    await asyncio.sleep(0)
    await gate.__aexit__(None, None, None)
    await asyncio.sleep(0)
    assert not waiting.done()
    await gate.__aexit__(None, None, None)
    await asyncio.wait_for(waiting, 5)


@dataclass
class Fast:
    """A server that takes 1 ms of one CPU for an answer, on a machine where others work: its speed varies by itself."""

    variation: float
    draw: random.Random = field(default_factory=lambda: random.Random(3))
    cpu: Gate = field(default_factory=lambda: Gate(1))
    factor: float = 1.0
    until: float = 0.0

    async def __call__(self, request: Request) -> Response:
        await asyncio.sleep(0.004 * self.draw.lognormvariate(0, 0.3))
        async with self.cpu:
            await asyncio.sleep(0.001 * self.slowness())
        return Response(200, {"usage": {"prompt_tokens": 10, "completion_tokens": 4}})

    def slowness(self) -> float:
        while asyncio.get_running_loop().time() >= self.until:
            self.until += self.draw.expovariate(1 / 0.3)
            self.factor = self.draw.lognormvariate(0, self.variation)
        return self.factor


@pytest.mark.parametrize("variation", [0.05, 0.4])
def test_it_settles_at_a_fast_server_whose_speed_varies(variation):
    """Windows of some milliseconds measured the machine: the limit changed every half second, from 1 to 300."""

    async def ask() -> AdaptiveConcurrency:
        gate = Gate(16)
        control, left = AdaptiveConcurrency(gate), iter(range(30_000))
        handler = control.around(Fast(variation))

        async def work() -> None:
            while next(left, None) is not None:
                async with gate:
                    await handler(Request("/v1/completions", {}))

        await asyncio.gather(*(work() for _ in range(MOST)))
        return control

    history = virtual_time.run(ask()).history
    assert len(history) <= 24
    late = [limit for at, limit in history if at > history[-1][0] / 2]
    assert max(late) <= 6 * min(late)
