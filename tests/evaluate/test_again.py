"""Truncated samples get a second attempt with more tokens, and failed ones get one at the end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from launcher.core.types import Request, Response, Sample, Score, Status
from launcher.evaluate.queue import MAX_FUTILE
from launcher.settings.evaluate import Evaluate
from launcher.tasks.answer import text_of
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, echo, said, serving


@dataclass
class Long(Echoes):
    """Samples of ``parts`` requests with a limit of 8 tokens; their number says how many tokens they need."""

    parts: int = 1

    def samples(self, name, model):
        for i in range(self.count):
            body = {"model": model, "prompt": str(i), "max_tokens": 8}
            yield Sample(name, str(i), (Request("/v1/completions", body),) * self.parts, str(i))

    async def score(self, sample, responses, ask):
        lost = next((text for text in map(text_of, responses) if isinstance(text, Score)), None)
        return lost or Score(Status.scored, sample.id, {"exact_match": 1.0})


async def needs_tokens(body, request):
    """Cut an answer that has fewer tokens than the number in the prompt; more than 40 are refused."""
    if body["max_tokens"] > 40:
        return web.json_response({"error": {"message": "too long"}}, status=400)
    return said("...", "stop" if body["max_tokens"] >= int(body["prompt"]) else "length")


async def run(server, folder, task, progress=None, **settings):
    given: tuple[Any, ...] = (
        server.endpoint,
        {"t": task},
        [],
        Evaluate(**settings),
        folder,
        {"v": 1},
        progress or Watch(),
    )
    return (await evaluate(*given)).tasks["t"]


def lines(folder):
    return {line["id"]: line for line in map(json.loads, (folder / "samples.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_truncated_sample_is_asked_with_more_tokens(tmp_path, parts):
    watch = Watch()
    async with serving(needs_tokens) as server:
        found = await run(server, tmp_path, Long(20, parts=parts), watch, retry_truncated=2)
    assert found.retried == {"truncated": {"asked": 11, "scored": 8}}
    assert (found.coverage["scored"], found.coverage["truncated"]) == (17, 3)
    line = lines(tmp_path)["12"]
    requests = line["request"] if parts > 1 else [line["request"]]
    assert [request["body"]["max_tokens"] for request in requests] == [16] * parts
    (earlier,) = line["earlier"]
    assert earlier["status"] == "truncated"
    assert earlier["max_tokens"] == (8 if parts == 1 else [8] * parts)
    assert "earlier" not in lines(tmp_path)["3"]
    assert len(watch.records) == 20


async def test_without_the_setting_a_truncated_sample_is_asked_once(tmp_path):
    async with serving(needs_tokens) as server:
        found = await run(server, tmp_path, Long(20))
    assert (found.retried, found.coverage["truncated"], len(server.asked)) == ({}, 11, 20)


async def test_a_truncated_answer_stands_where_more_tokens_are_refused(tmp_path):
    async with serving(needs_tokens) as server:
        found = await run(server, tmp_path, Long(10), retry_truncated=10)
        assert (found.coverage["truncated"], found.retried) == (1, {"truncated": {"asked": 1, "scored": 0}})
        assert lines(tmp_path)["9"]["reason"].endswith("with more tokens it was refused: HTTP 400: too long")
        again = await run(server, tmp_path, Long(10), retry_truncated=10)
    assert (again, len(server.asked)) == (found, 11)


async def test_more_tokens_end_where_the_context_does(tmp_path):
    """A prompt has 3 tokens and the context has 30."""

    async def models(_):
        return web.json_response({"data": [{"id": "other"}, {"id": "m", "max_model_len": 30}]})

    async with serving(needs_tokens, models=models) as server:
        found = await run(server, tmp_path, Long(30), retry_truncated=100)
    assert max(body["max_tokens"] for body in server.asked) == 27
    assert found.retried["truncated"]["scored"] == 19


async def test_failed_samples_are_asked_once_more_at_the_end(tmp_path):
    failed = set()

    async def answer(body, request):
        name = body["prompt"]
        if name in ("1", "4") or (name in ("2", "3") and name not in failed):
            failed.add(name)
            return web.Response(status=500)
        return said(name)

    watch = Watch()
    async with serving(answer) as server:
        found = await run(server, tmp_path, Echoes(30), watch, concurrency=4)
    assert found.retried == {"failed": {"asked": 4, "scored": 2}}
    assert found.coverage["failed"] == 2
    own = [body["prompt"] for body in server.asked if body["prompt"] != "a"]  # "a" is a request of the breaker
    assert set(own[-4:]) == {"1", "2", "3", "4"}
    assert {record.status for record in watch.records if record.id in "23"} == {Status.scored}


@pytest.mark.parametrize(("settings", "asked"), [({}, 100 + MAX_FUTILE), ({"retry_failed": False}, 100)])
async def test_a_server_that_is_wrong_for_all_is_not_asked_all_twice(tmp_path, settings, asked):
    async def answer(body, request):
        return web.json_response({"error": {"message": "no"}}, status=404)

    async with serving(answer) as server:
        found = await run(server, tmp_path, Echoes(100), concurrency=50, **settings)
    assert (found.coverage["failed"], len(server.asked)) == (100, asked)


async def test_a_refused_sample_is_not_asked_again(tmp_path):
    async def answer(body, request):
        return web.json_response({"error": {"message": "no"}}, status=400)

    async with serving(answer) as server:
        await run(server, tmp_path, Echoes(5))
    assert len(server.asked) == 5


class Waits(Echoes):
    """A scoring that never ends for sample "1", and asks a slow server for the others."""

    async def score(self, sample, responses, ask):
        if sample.id == "1":
            await asyncio.Event().wait()
        answer: Response = await ask(Request("/v1/completions", {"prompt": "judge"}))
        return Score(Status.scored, answer.body["choices"][0]["text"], {"exact_match": 1.0})


async def test_a_scoring_that_never_ends_is_failed(tmp_path):
    async def answer(body, request):
        await asyncio.sleep(0.3 if body["prompt"] == "judge" else 0)
        return said("yes")

    async with serving(answer) as server:
        found = await run(server, tmp_path, Waits(3), score_timeout_s=0.15, retry_failed=False)
    assert (found.coverage["scored"], found.coverage["failed"]) == (2, 1), "the time of a request does not count"
    assert lines(tmp_path)["1"]["reason"] == "scoring failed: it took more than evaluate.score_timeout_s=0.15"


@dataclass
class Raises(Echoes):
    """Its scoring of one sample raises an error, and that of another says that asking again does not help."""

    async def score(self, sample, responses, ask):
        if sample.id == "1":
            raise KeyError("label")
        if sample.id == "2":
            return Score(Status.failed, reason="no label", is_final=True)
        return await super().score(sample, responses, ask)


async def test_a_sample_whose_scorer_failed_is_not_asked_again(tmp_path):
    async with serving(echo) as server:
        found = await run(server, tmp_path, Raises(5))
    assert (found.coverage["scored"], found.coverage["failed"], found.retried) == (3, 2, {})
    assert sorted(body["prompt"] for body in server.asked) == ["0", "1", "2", "3", "4"]
    assert lines(tmp_path)["1"]["reason"] == "scoring failed: KeyError: 'label'"
