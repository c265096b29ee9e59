"""Samples of several requests, and scoring that asks on its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from launcher.adapters.caching import Caching
from launcher.adapters.retry import Retry
from launcher.core.types import Ask, Request, Response, Sample, Score, Status
from launcher.evaluate.ask import ask
from launcher.evaluate.exchange import Symptom
from launcher.evaluate.second_endpoint import Connection
from launcher.settings.evaluate import Evaluate
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, said, serving


@dataclass
class Parts(Echoes):
    """Each sample asks for several texts; right is the one that is longest."""

    parts: int = 3
    temperature: float = 0.0

    def samples(self, name: str, model: str) -> Iterator[Sample]:
        for i in range(self.count):
            bodies = [
                {"model": model, "prompt": f"{i}.{part}", "temperature": self.temperature} for part in range(self.parts)
            ]
            yield Sample(name, str(i), tuple(Request("/v1/completions", body) for body in bodies), self.parts)

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        texts = [response.body["choices"][0]["text"] for response in responses]
        right = texts == [request.body["prompt"] for request in sample.requests]
        return Score(Status.scored, texts, {"exact_match": float(right)})


class Judged(Echoes):
    """A verdict of the same endpoint is the score; ``place`` is the endpoint that is asked for it."""

    place: str | None = None
    votes: int = 1

    async def score(self, sample: Sample, responses: Sequence[Response], ask: Ask) -> Score:
        request = Request("/v1/completions", {"model": "judge", "prompt": f"judge {sample.id}", "temperature": 1.0})
        found = [await ask(request, self.place) for _ in range(self.votes)]
        return Score(Status.scored, [f.body["choices"][0]["text"] for f in found], {"exact_match": 1.0})


async def run(server, folder, task, adapters=(), progress=None, deployment=None, **settings):
    watch, chosen = progress or Watch(), Evaluate(**settings)
    return await evaluate(
        server.endpoint, {"t": task}, list(adapters), chosen, folder, {"v": 1}, watch, deployment=deployment
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


async def test_a_sample_is_scored_on_all_its_responses_in_the_order_of_its_requests(tmp_path):
    async def answer(body, request):
        await asyncio.sleep(0.02 if body["prompt"].endswith(".0") else 0)  # the first is answered last
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, Parts(4), concurrency=5)
    assert sorted(server.prompts) == [f"{i}.{part}" for i in range(4) for part in range(3)]
    assert server.most <= 5
    assert found.tasks["t"].metrics["exact_match"].value == 1.0
    assert found.tasks["t"].coverage["scored"] == found.tasks["t"].coverage["total"] == 4
    assert (found.throughput["requests"], found.throughput["generated_tokens"]) == (12, 24)
    line = lines(tmp_path)[0]
    assert [request["body"]["prompt"] for request in line["request"]] == ["0.0", "0.1", "0.2"]
    assert [response["choices"][0]["text"] for response in line["response"]] == ["0.0", "0.1", "0.2"]
    assert line["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}


async def test_one_sample_uses_the_concurrency_of_the_run(tmp_path):
    full = asyncio.Event()

    async def answer(body, request):
        if server.now == 4:
            full.set()
        await full.wait()
        return said(body["prompt"])

    async with serving(answer) as server:
        await run(server, tmp_path, Parts(1, parts=9), concurrency=4)
    assert server.most == 4


@pytest.mark.parametrize(("code", "status"), [(400, "refused"), (500, "failed")])
async def test_one_request_without_an_answer_ends_the_sample(tmp_path, code, status):
    async def answer(body, request):
        if body["prompt"] == "1.1":
            return web.json_response({"error": {"message": "not this"}}, status=code)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, Parts(3))
    assert [line["status"] for line in lines(tmp_path)] == ["scored", status, "scored"]
    assert lines(tmp_path)[1]["reason"] == f"HTTP {code}: not this"
    assert lines(tmp_path)[1]["response"][1] == {"error": {"message": "not this"}}
    assert found.tasks["t"].coverage[status] == 1


async def test_a_sample_that_was_asked_in_part_is_asked_again_and_no_other(tmp_path):
    holding, reached = asyncio.Event(), asyncio.Event()

    async def answer(body, request):
        if body["prompt"] == "2.1":
            reached.set()
            await holding.wait()
        return said(body["prompt"])

    async with serving(answer) as server:
        watch = Watch(after=2)
        task = asyncio.create_task(run(server, tmp_path, Parts(3), progress=watch))
        await asyncio.gather(reached.wait(), watch.reached.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [line["id"] for line in lines(tmp_path)] == ["0", "1"]
        holding.set()
        server.asked.clear()
        found = await run(server, tmp_path, Parts(3))
    assert sorted(server.prompts) == ["2.0", "2.1", "2.2"]
    assert found.tasks["t"].coverage["scored"] == 3


async def test_each_request_is_tried_again_by_itself(tmp_path):
    failed = set()

    async def answer(body, request):
        if body["prompt"] not in failed:
            failed.add(body["prompt"])
            return web.json_response({"error": {"message": "later"}}, status=429)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, Parts(2), adapters=[Retry(first_delay_s=0.001)])
    assert len(server.prompts) == 12
    assert found.tasks["t"].coverage["scored"] == 2


@pytest.mark.parametrize(("temperature", "asked"), [(0.0, 3), (1.0, 6)])
async def test_equal_requests_of_a_sample_share_an_answer_only_where_it_is_not_drawn(tmp_path, temperature, asked):
    class Votes(Parts):
        def samples(self, name, model):
            for sample in super().samples(name, model):
                yield Sample(name, sample.id, (sample.requests[0],) * 2, sample.target)

    async with serving() as server:
        for session in range(2):
            folder = tmp_path / str(session)
            folder.mkdir()
            adapters = [Caching(str(tmp_path / "answers"))]
            found = await run(server, folder, Votes(3, temperature=temperature), adapters, deployment={"v": 1})
    assert len(server.prompts) == asked
    assert (found.throughput["requests"], found.throughput["cached"]) == (0, 6)


async def test_a_task_may_ask_while_it_scores(tmp_path):
    async with serving() as server:
        found = await run(server, tmp_path, Judged(2), temperature=0.5)
    assert sorted(server.prompts) == ["0", "1", "judge 0", "judge 1"]
    assert [body.get("temperature") for body in server.asked if body["model"] == "judge"] == [1.0, 1.0]
    assert found.throughput["requests"] == 2, "what the scoring asks is no answer of the evaluated model"
    [entry] = lines(tmp_path)[0]["scoring"]
    assert (entry["endpoint"], entry["request"]["body"]["prompt"]) == (None, "judge 0")
    assert entry["response"]["choices"][0]["text"] == "judge 0"


async def test_votes_of_one_sample_are_asked_one_by_one_and_kept(tmp_path):
    task = Judged(1)
    task.votes = 3
    async with serving() as server:
        for session in range(2):
            folder = tmp_path / str(session)
            folder.mkdir()
            await run(server, folder, task, [Caching(str(tmp_path / "answers"))], deployment={"v": 1})
    assert server.prompts.count("judge 0") == 3


async def test_a_verdict_that_does_not_come_ends_the_sample_with_its_reason(tmp_path):
    async def answer(body, request):
        if body["prompt"] == "judge 1":
            return web.json_response({"error": {"message": "too long"}}, status=400)
        return said(body["prompt"])

    async with serving(answer) as server:
        await run(server, tmp_path, Judged(2))
    assert [(line["status"], line["reason"]) for line in lines(tmp_path)] == [
        ("scored", None),
        ("refused", "HTTP 400: too long"),
    ]


async def test_a_sample_is_asked_again_when_the_server_goes_away_during_its_scoring(tmp_path):
    lost: list[Any] = []

    async def answer(body, request):
        if body["prompt"] == "judge 1" and not lost:
            lost.append(1)
            return web.json_response({"error": {"message": "gone"}}, status=503)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, Judged(2))
    assert found.tasks["t"].coverage["scored"] == 2
    assert server.prompts.count("1") == 2


async def other(request: Request) -> Response:
    return Response(200, {"choices": [{"index": 0, "text": "from elsewhere", "finish_reason": "stop"}]})


async def broken(request: Request) -> Response:
    return Response(503, {"error": {"message": "gone"}})


async def asked(place, others):
    task = Judged(1)
    task.place = place
    [sample] = task.samples("t", "m")
    connections = {name: Connection(name, "m", handler) for name, handler in others.items()}
    return await ask(other, sample, task, others=connections)


async def test_another_endpoint_is_asked_by_its_name():
    found = await asked("judge", {"judge": other})
    assert found.record.prediction == ["from elsewhere"]
    assert found.record.scoring[0]["endpoint"] == "judge"


async def test_an_unknown_endpoint_is_named():
    found = await asked("jury", {"judge": other})
    assert found.record.status is Status.failed
    assert found.record.reason == "scoring failed: LookupError: no endpoint is named 'jury'; expected one of: judge"


async def test_the_trouble_of_another_endpoint_says_nothing_of_the_runs_own():
    found = await asked("judge", {"judge": broken})
    assert (found.record.status, found.record.reason) == (Status.failed, "judge: HTTP 503: gone")
    assert found.symptom is Symptom.none
