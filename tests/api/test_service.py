from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from launcher.api import service
from launcher.api.service import Readiness
from launcher.core.errors import QueueFull
from launcher.engines.base import GenerationRequest, TokenOutput
from tests.api.runners import Scripted, said


class Hung(Scripted):
    """Never produces a token."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self.asked.append(request)
        self.open += 1
        try:
            await asyncio.Event().wait()
            yield TokenOutput()
        finally:
            self.open -= 1


async def test_a_token_makes_ready_and_is_not_asked_for_again() -> None:
    runner = Scripted([said("a", "length")])
    readiness = Readiness(runner, 5)
    assert [await readiness.problem() for _ in range(3)] == [None] * 3
    assert len(runner.asked) == 1
    assert runner.asked[0].sampling.max_tokens == 1
    assert runner.open == 0


async def test_traffic_makes_ready_without_asking() -> None:
    runner = Scripted([])
    readiness = Readiness(runner, 5)
    readiness.produced()
    assert await readiness.problem() is None
    assert not runner.asked


async def test_an_old_token_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FRESH_S", -1)
    runner = Hung([])
    readiness = Readiness(runner, 0.01)
    readiness.produced()
    assert "no token within 0.01 s" in str(await readiness.problem())
    assert runner.open == 0


async def test_those_who_ask_together_share_one_probe() -> None:
    runner = Scripted([said("a", "length")])
    readiness = Readiness(runner, 5)
    assert await asyncio.gather(*(readiness.problem() for _ in range(8))) == [None] * 8
    assert len(runner.asked) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([RuntimeError("weights are NaN")], "weights are NaN"),
        ([QueueFull("full")], "full"),
        ([TokenOutput(finish="length")], "without a token"),
        ([], "without a token"),
    ],
)
async def test_the_reason_is_given(script: list[TokenOutput | Exception], reason: str) -> None:
    assert reason in str(await Readiness(Scripted(script), 5).problem())
