from __future__ import annotations

import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from launcher.core.token_times import EACH, FIRST, seconds
from tests.api.runners import Script, Scripted, client_of, said


async def values(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.name + "".join(f"/{v}" for v in s.labels.values()): s.value for s in samples}


async def test_requests_are_counted_by_route_and_status(client: httpx.AsyncClient) -> None:
    ask = {"model": "echo", "prompt": "abc", "temperature": 0}
    await client.post("/v1/completions", json=ask)
    await client.post("/v1/completions/", json=ask)
    await client.post("/v1/completions", json=ask | {"n": 0})
    await client.get("/nowhere/at/all")
    found = await values(client)
    assert found["launcher_requests_total//v1/completions/200"] == 2
    assert found["launcher_requests_total//v1/completions/400"] == 1
    assert found["launcher_requests_total/unknown/404"] == 1
    assert found["launcher_request_seconds_count//v1/completions"] == 3
    assert found["launcher_first_token_seconds_count"] == 2
    assert found["launcher_engine_prompt_tokens_total"] == 6
    assert found["launcher_engine_generated_tokens_total"] == 8
    assert found["launcher_engine_running"] == 0
    assert found["launcher_engine_up"] == 1


async def test_every_app_has_counters_of_its_own() -> None:
    async with client_of(Scripted([said("a", "length")])) as one, client_of(Scripted([])) as two:
        await one.get("/health")
        assert re.search(r'path="/health"', (await one.get("/metrics")).text)
        assert not re.search(r'path="/health"', (await two.get("/metrics")).text)


SEVERAL, ONE = [said("a"), said("b"), said("c", "length")], [said("abc", "length")]


@pytest.mark.parametrize(
    ("script", "more", "headers"),
    [
        (SEVERAL, {}, {FIRST, EACH}),
        (ONE, {}, {FIRST}),
        (SEVERAL, {"n": 2}, {FIRST}),
        (SEVERAL, {"stream": True}, set()),
    ],
)
async def test_a_whole_answer_says_when_it_had_its_tokens(
    script: Script, more: dict[str, object], headers: set[str]
) -> None:
    async with client_of(Scripted(script)) as client:
        answer = await client.post("/v1/completions", json={"model": "scripted", "prompt": "x", **more})
    assert {name for name in (FIRST, EACH) if name in answer.headers} == headers
    assert all(seconds(answer.headers, name) is not None for name in headers)
