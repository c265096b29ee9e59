"""A client that goes away frees its slots."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.api.contract.conftest import Api

LONG = {"prompt": "12+34=", "temperature": 0, "ignore_eos": True, "n": 3}


async def idle(api: Api) -> None:
    """Wait until nothing runs or waits in the engine."""
    async with asyncio.timeout(30):
        while True:
            state = await api.state()
            if state["running"] == state["queued"] == 0:
                return
            await asyncio.sleep(0.02)


async def test_leaving_a_stream(api: Api) -> None:
    body = LONG | {"model": api.endpoint.model, "stream": True, "max_tokens": await api.context_length() - 20}
    async with api.http.stream("POST", "/v1/completions", json=body) as answer:
        await anext(answer.aiter_bytes())
    await idle(api)


async def test_leaving_before_the_answer(api: Api) -> None:
    body = LONG | {"model": api.endpoint.model, "max_tokens": await api.context_length() - 20, "logprobs": 5}
    with pytest.raises(httpx.ReadTimeout):
        await api.http.post("/v1/completions", json=body, timeout=httpx.Timeout(60, read=0.001))
    await idle(api)
    assert (await api.complete())["choices"]
