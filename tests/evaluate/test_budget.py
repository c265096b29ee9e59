"""A budget ends an evaluation in order, over all its sessions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from launcher.core.types import Score, Status
from launcher.settings.budget import Budget
from launcher.settings.evaluate import Evaluate
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving

PRICES: dict[str, Any] = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 10.0}


async def run(server, folder, count=40, budget: Budget | None = None, **settings):
    asking = Evaluate(budget=budget or Budget(), **settings)
    given: tuple[Any, ...] = (server.endpoint, {"t": Echoes(count)}, [], asking, folder, {"v": 1}, Watch())
    return await evaluate(*given)


@pytest.mark.parametrize("bound", [{"tokens": 50}, {"usd": 230e-6, **PRICES}], ids=["tokens", "usd"])
async def test_a_budget_ends_the_asking_and_a_larger_one_continues(tmp_path, bound):
    """An answer has 3 tokens of prompt and 2 of completion: 5 tokens, or 23 millionths of a dollar."""
    async with serving() as server:
        found = await run(server, tmp_path, budget=Budget(**bound), concurrency=4)
        assert 10 <= len(server.asked) < 10 + 4, "only what was in flight is above it"
        assert "is spent" in found.stopped
        assert found.tasks["t"].coverage["not_asked"] == 40 - len(server.asked)
        assert found.throughput["budget"]["tokens"] == 5 * len(server.asked)
        before = len(server.asked)
        again = await run(server, tmp_path, budget=Budget(**bound), concurrency=4)
        assert (len(server.asked), again.stopped is None) == (before, False), "the sessions add up"
        done = await run(server, tmp_path, budget=Budget(tokens=10_000))
        assert (done.stopped, len(server.asked), done.throughput["budget"]["tokens"]) == (None, 40, 200)


async def test_what_a_killed_session_spent_counts(tmp_path):
    async with serving() as server:
        await run(server, tmp_path, count=10, budget=Budget(tokens=10_000))
        lines = (tmp_path / "samples.jsonl").read_text().splitlines(keepends=True)
        header = json.loads((tmp_path / "journal.json").read_text())
        assert header["spent"] == {"prompt_tokens": 30, "completion_tokens": 20}
        killed = {name: header[name] for name in ("schema_version", "fingerprint")}
        (tmp_path / "journal.json").write_text(json.dumps(killed))
        assert json.loads(lines[0])["spent"] == {"prompt_tokens": 3, "completion_tokens": 2}
        found = await run(server, tmp_path, budget=Budget(tokens=50))
        assert (len(server.asked), "50 tokens" in found.stopped) == (10, True)


async def test_an_answer_without_counts_ends_it(tmp_path):
    async def answer(body, request):
        return web.json_response({"choices": [{"index": 0, "text": body["prompt"], "finish_reason": "stop"}]})

    async with serving(answer) as server:
        found = await run(server, tmp_path, budget=Budget(tokens=1000), concurrency=2)
        assert len(server.asked) <= 3
        assert "no token counts" in found.stopped


async def test_a_budget_that_is_just_enough_is_no_stop(tmp_path):
    async with serving() as server:
        found = await run(server, tmp_path, count=10, budget=Budget(tokens=46), concurrency=1)
    assert (found.stopped, found.tasks["t"].coverage["scored"]) == (None, 10)


async def test_failed_answers_count_too(tmp_path):
    async def answer(body, request):
        return said(None)

    async with serving(answer) as server:
        found = await run(server, tmp_path, count=5, budget=Budget(tokens=1000))
    assert found.throughput["budget"]["tokens"] == 5 * len(server.asked)


async def test_prices_without_a_bound_are_only_shown(tmp_path):
    async with serving() as server:
        found = await run(server, tmp_path, count=5, budget=Budget(**PRICES))
    assert found.stopped is None
    assert found.throughput["budget"]["usd"] == pytest.approx(5 * 23e-6)


async def test_a_second_attempt_that_is_due_is_still_made(tmp_path):
    """Else the first answer would be paid for and lost."""

    class Cut(Echoes):
        async def score(self, sample, responses, ask):
            done = sample.requests[0].body["max_tokens"] > 1
            return Score(Status.scored, None, {"exact_match": 1.0}) if done else Score(Status.truncated, reason="cut")

        def samples(self, name, model):
            for sample in super().samples(name, model):
                request = sample.requests[0]
                yield replace(sample, requests=(replace(request, body={**request.body, "max_tokens": 1}),))

    async with serving() as server:
        asking = Evaluate(budget=Budget(tokens=4), concurrency=1, retry_truncated=2)
        found = await evaluate(server.endpoint, {"t": Cut(5)}, [], asking, tmp_path, {"v": 1}, Watch())
        assert [body["max_tokens"] for body in server.asked] == [1, 2]
    assert found.tasks["t"].coverage["scored"] == 1
    assert found.stopped is not None


async def test_what_is_spent_is_shown_while_it_is(tmp_path):
    async with serving() as server:
        watch = Watch()
        asking = Evaluate(budget=Budget(tokens=1000, usd=5, **PRICES))
        await evaluate(server.endpoint, {"t": Echoes(5)}, [], asking, tmp_path, {"v": 1}, watch)
    assert watch.spent() == "25 of 1,000 tokens · 0.0001 of 5 USD"
