from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from launcher.adapters.base import Adapter
from launcher.adapters.caching import Caching
from launcher.adapters.raise_client_errors import RaiseClientErrors
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.retry import Retry
from launcher.adapters.system_message import SystemMessage
from launcher.core.errors import AdapterStop, ResumeError, TaskError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Request, Response, Sample, Status
from launcher.evaluate import outcome
from launcher.settings.evaluate import Evaluate
from launcher.tasks.generation import Generation
from tests.evaluate.asking import evaluate
from tests.evaluate.evaluation_server import Echoes, Watch, echo, said, serving

ROOT = Path(__file__).parent.parent.parent


async def run(server, folder, *, tasks=None, adapters=(), progress=None, fingerprint=None, deployment=None, **settings):
    return await evaluate(
        server.endpoint,
        tasks or {"t": Echoes()},
        list(adapters),
        Evaluate(**settings),
        folder,
        fingerprint or {"v": 1},
        progress or Watch(),
        deployment=deployment,
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def statuses(folder):
    return {line["id"]: line["status"] for line in lines(folder)}


async def test_answers_from_the_cache_are_no_throughput(tmp_path):
    async with serving() as server:
        for count in (3, 5):
            folder = tmp_path / str(count)
            folder.mkdir()
            adapters = [Caching(str(tmp_path / "answers"))]
            found = await run(server, folder, tasks={"t": Echoes(count)}, adapters=adapters, deployment={"v": 1})
    assert len(server.prompts) == 5
    assert (found.throughput["requests"], found.throughput["cached"]) == (2, 3)
    assert found.tasks["t"].coverage["scored"] == 5
    assert found.tasks["t"].metrics["exact_match"].value == 1.0


async def test_every_sample_is_asked_once_and_written_in_order(tmp_path):
    watch = Watch()
    async with serving() as server:
        found = await run(server, tmp_path, tasks={"a": Echoes(30), "b": Echoes(3)}, progress=watch, concurrency=7)
    assert sorted(server.prompts) == sorted([str(i) for i in range(30)] + ["0", "1", "2"])
    assert [(line["task"], line["id"]) for line in lines(tmp_path)] == [
        *(("a", str(i)) for i in range(30)),
        *(("b", str(i)) for i in range(3)),
    ]
    assert found.tasks["a"].metrics["exact_match"].value == 1.0
    assert found.tasks["a"].coverage["scored"] == 30
    assert found.throughput["requests"] == 33
    assert found.throughput["generated_tokens"] == 66
    assert (watch.begun, len(watch.records), watch.ended) == ((33, 0), 33, True)


async def test_a_line_holds_what_the_contract_says(tmp_path):
    async with serving() as server:
        await run(server, tmp_path, tasks={"t": Echoes(1)}, temperature=0.5)
    [line] = lines(tmp_path)
    assert line.pop("latency_s") > 0
    assert line == {
        "task": "t",
        "id": "0",
        "repeat": 0,
        "request": {"path": "/v1/completions", "body": {"model": "m", "prompt": "0", "temperature": 0.5}},
        "response": json.loads(str(said("0").text)),
        "prediction": "0",
        "target": "0",
        "scores": {"exact_match": 1.0},
        "status": "scored",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "reason": None,
    }


async def test_the_request_is_recorded_before_the_adapters(tmp_path):
    async with serving() as server:
        await run(server, tmp_path, tasks={"t": Echoes(1)}, adapters=[SystemMessage(text="S", separator="|")])
    assert server.prompts == ["S|0"]
    assert lines(tmp_path)[0]["request"]["body"]["prompt"] == "0"
    assert lines(tmp_path)[0]["prediction"] == "S|0"


async def test_concurrency_is_reached_and_never_exceeded(tmp_path):
    full = asyncio.Event()

    async def answer(body, request):
        if server.now == 4:
            full.set()
        await full.wait()
        return said(body["prompt"])

    async with serving(answer) as server:
        await run(server, tmp_path, tasks={"t": Echoes(20)}, concurrency=4)
    assert server.most == 4


async def test_the_first_request_goes_out_before_all_prompts_are_made(tmp_path):
    task, made = Echoes(1000), []

    async def answer(body, request):
        made.append(task.made)
        return said(body["prompt"])

    async with serving(answer) as server:
        await run(server, tmp_path, tasks={"t": task}, concurrency=2)
    assert made[0] <= 6
    assert len(made) == 1000


STATUSES = {
    400: Status.refused, 403: Status.refused, 413: Status.refused, 422: Status.refused, 401: Status.failed,
    404: Status.failed, 429: Status.failed, 500: Status.failed, 503: Status.failed, 307: Status.failed,
}  # fmt: skip


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
async def test_error_statuses_are_no_scores(tmp_path, code, status):
    async def answer(body, request):
        if body["prompt"] == "1":
            return web.json_response({"error": {"message": "not this"}}, status=code)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path)
    assert statuses(tmp_path)["1"] == status.value
    again = "; it was asked 3 times" if code == 503 else ""
    assert lines(tmp_path)[1]["reason"] == f"HTTP {code}: not this{again}"
    assert found.tasks["t"].metrics["exact_match"].value == 1.0, "it did not enter the mean as 0"
    assert found.tasks["t"].metrics["exact_match"].low == 0.8
    assert found.tasks["t"].coverage[status.value] == 1


async def test_what_breaks_is_failed_with_a_reason(tmp_path):
    class Fragile(Echoes):
        async def score(self, sample, responses, ask):
            if sample.id == "1":
                raise ZeroDivisionError("in the scoring")
            return await super().score(sample, responses, ask)

    class Breaks(Adapter):
        async def __call__(self, request, call_next):
            if request.body["prompt"] == "2":
                raise KeyError("in the adapter")
            return await call_next(request)

    async def answer(body, request):
        if body["prompt"] == "3":
            request.transport.abort()
        return said(body["prompt"]) if body["prompt"] != "4" else web.Response(text="no json")

    async with serving(answer) as server:
        found = await run(server, tmp_path, tasks={"t": Fragile(6)}, adapters=[Breaks()])
    assert statuses(tmp_path) == {
        "0": "scored",
        "1": "failed",
        "2": "failed",
        "3": "failed",
        "4": "failed",
        "5": "scored",
    }
    reasons = [line["reason"] for line in lines(tmp_path)]
    for reason, word in zip(
        reasons[1:5], ("in the scoring", "in the adapter", "/v1/completions", "no JSON"), strict=True
    ):
        assert word in reason
    assert found.tasks["t"].metrics["exact_match"].value == 1.0


async def test_an_observer_that_fails_costs_no_sample_and_is_counted(tmp_path):
    class Breaks(Adapter):
        observer = True

        async def __call__(self, request, call_next):
            await call_next(request)
            raise KeyError("in the observer")

    async with serving() as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(6)}, adapters=[Breaks()])
    assert found.tasks["t"].coverage["scored"] == 6
    assert len(server.prompts) == 6
    counted = json.loads((tmp_path / "adapter_failures.json").read_text())
    assert counted == {"Breaks": {"count": 6, "first": "KeyError: 'in the observer'"}}


async def test_a_refusing_adapter_sends_nothing(tmp_path):
    class Tokens(Echoes):
        def samples(self, name, model):
            yield Sample(name, "0", (Request("/v1/completions", {"model": model, "prompt": [1, 2]}),), "")

    async with serving() as server:
        await run(server, tmp_path, tasks={"t": Tokens()}, adapters=[SystemMessage(text="S")])
    assert server.asked == []
    assert "token ids" in lines(tmp_path)[0]["reason"]


async def test_an_adapter_may_end_the_evaluation(tmp_path):
    asked = 0

    async def answer(body, request):
        nonlocal asked
        asked += 1
        if asked <= 2:
            return said(body["prompt"])
        return web.json_response({"error": {"message": "no such model"}}, status=404)

    async with serving(answer) as server:
        with pytest.raises(AdapterStop, match=r"HTTP 404 .*no such model"):
            await run(server, tmp_path, adapters=[Retry(), RaiseClientErrors()], concurrency=1)
    assert list(statuses(tmp_path).values()) == ["scored", "scored"], "what was done is kept"


async def test_a_streamed_answer_is_failed(tmp_path):
    class Streams(Adapter):
        async def __call__(self, request, call_next):
            async def events():
                yield {}

            return Response(200, events=events())

    async with serving() as server:
        await run(server, tmp_path, adapters=[Streams()])
    assert set(statuses(tmp_path).values()) == {"failed"}


async def test_retried_requests_are_scored_once(tmp_path):
    failures: dict[str, int] = {}

    async def answer(body, request):
        failures[body["prompt"]] = failures.get(body["prompt"], 0) + 1
        if failures[body["prompt"]] < 3:
            return web.Response(status=503)
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, adapters=[Retry(first_delay_s=0.001)])
    assert found.tasks["t"].coverage["scored"] == 5
    assert len(server.asked) == 15


async def test_truncated_reasoning_is_never_scored(tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "cut", "prompt": "cut", "answer": 4}\n{"id": "whole", "prompt": "whole", "answer": 4}\n')

    async def answer(body, request):
        if body["prompt"] == "cut":
            return said("<think>is it 4?", "length")
        return said("<think>2+2</think>4")

    async with serving(answer) as server:
        found = await run(server, tmp_path, tasks={"t": Generation(path=str(items))}, adapters=[Reasoning()])
    assert statuses(tmp_path) == {"cut": "truncated", "whole": "scored"}
    assert found.tasks["t"].metrics["exact_match"].value == 1.0


async def test_repeats(tmp_path):
    async with serving() as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(3)}, repeats=2, seed=10, limit=2)
    assert [(line["id"], line["repeat"]) for line in lines(tmp_path)] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]
    assert [line["request"]["body"]["seed"] for line in lines(tmp_path)] == [10, 11, 10, 11]
    assert found.tasks["t"].coverage["total"] == 4


async def test_a_cancelled_run_keeps_what_was_done_and_is_continued(tmp_path):
    hang = asyncio.Event()

    async def answer(body, request):
        if int(body["prompt"]) >= 6:
            await hang.wait()
        return said(body["prompt"])

    watch = Watch(after=6)
    async with serving(answer) as server:
        task = asyncio.create_task(run(server, tmp_path, tasks={"t": Echoes(10)}, concurrency=2, progress=watch))
        await watch.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watch.ended
    partial = outcome.read(tmp_path, {"t": Echoes()})
    assert partial.tasks["t"].coverage == {
        "scored": 6, "truncated": 0, "refused": 0, "unparsed": 0, "failed": 0, "not_asked": 4, "total": 10,
    }  # fmt: skip
    assert partial.throughput["requests"] == 6
    assert "earlier_samples" not in partial.throughput

    watch = Watch()
    async with serving() as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(10)}, progress=watch)
    assert sorted(server.prompts) == ["6", "7", "8", "9"], "no finished sample is asked again"
    assert watch.begun == (10, 6)
    assert found.tasks["t"].coverage["scored"] == 10
    assert (found.throughput["requests"], found.throughput["earlier_samples"]) == (4, 6)
    assert [line["id"] for line in lines(tmp_path)] == [str(i) for i in range(10)]


async def test_failed_samples_are_asked_again_when_continued(tmp_path):
    async def answer(body, request):
        return web.Response(status=500) if body["prompt"] == "2" else said("wrong")

    async with serving(answer) as server:
        await run(server, tmp_path)
    async with serving() as server:
        found = await run(server, tmp_path)
    assert server.prompts == ["2"]
    assert found.tasks["t"].metrics["exact_match"].value == 0.2
    assert len(lines(tmp_path)) == 5


async def test_a_line_whose_id_was_changed_by_hand_is_no_further_sample(tmp_path, capsys):
    async with serving() as server:
        found = await run(server, tmp_path)
        changed = [{**line, "id": "by hand"} if line["id"] == "3" else line for line in lines(tmp_path)]
        (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        again = await run(server, tmp_path)
    assert again.tasks == found.tasks
    assert [line["id"] for line in lines(tmp_path)] == ["0", "1", "2", "3", "4"]
    assert server.prompts.count("3") == 2
    assert "samples.jsonl: 1 line left out, whose sample no task has: t/by hand/0" in capsys.readouterr().err


async def test_a_finished_run_continued_asks_nothing_and_keeps_its_throughput(tmp_path):
    async with serving() as server:
        first = await run(server, tmp_path)
        again = await run(server, tmp_path)
        assert len(server.asked) == 5
    assert again == first


async def test_a_run_with_other_answers_is_not_continued(tmp_path):
    async with serving() as server:
        await run(server, tmp_path, fingerprint={"evaluate": {"temperature": None}})
        with pytest.raises(ResumeError, match=r"evaluate\.temperature: null -> 0\.8"):
            await run(server, tmp_path, fingerprint={"evaluate": {"temperature": 0.8}})
        assert len(server.asked) == 5


async def test_a_server_that_does_not_come_back_ends_the_asking(tmp_path):
    async def answer(body, request):
        if int(body["prompt"]) >= 20:
            for site in server.runner.sites.copy():
                await site.stop()
            request.transport.abort()
        return said(body["prompt"])

    async with serving(answer) as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(5000)}, concurrency=4, max_pause_s=0.5)
    coverage = found.tasks["t"].coverage
    assert coverage["scored"] >= 20
    assert coverage["failed"] == 0
    assert coverage["scored"] + coverage["not_asked"] == coverage["total"] == 5000
    assert len(lines(tmp_path)) < 100, "the rest was left unasked"
    assert "stopped answering" in found.stopped
    assert "evaluate.max_pause_s=0.5" in found.stopped
    assert (found.tasks["t"].metrics["exact_match"].low) == coverage["scored"] / 5000
    assert (found.tasks["t"].metrics["exact_match"].high) == 1.0

    async with serving() as again:
        found = await run(again, tmp_path, tasks={"t": Echoes(5000)})
    assert found.stopped is None
    assert found.tasks["t"].coverage["scored"] == 5000
    assert len(found.pauses) == 1, "those of earlier sessions are kept"


async def test_a_bad_item_stops_the_run_and_keeps_what_was_done(tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f'{{"prompt": "{i}", "answer": "{i}"}}\n' for i in range(50)) + "broken\n")
    async with serving() as server:
        with pytest.raises(TaskError, match=r"items\.jsonl:51"):
            await run(server, tmp_path, tasks={"t": Generation(path=str(items))}, concurrency=1)
    assert len(lines(tmp_path)) == 50


async def test_an_adapter_lives_as_long_as_the_asking(tmp_path):
    async with serving() as server:
        await run(server, tmp_path, adapters=[Reasoning()])
    assert json.loads((tmp_path / "reasoning.json").read_text())["answers"] == 5


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.evaluate.evaluation_server import Echoes, Watch
from launcher.core.types import Endpoint
from tests.evaluate.asking import evaluate
from launcher.settings.evaluate import Evaluate
endpoint = Endpoint(sys.argv[1], "m", "external", "none")
asyncio.run(evaluate(endpoint, {"t": Echoes(500)}, [], Evaluate(concurrency=4), Path(sys.argv[2]), {"v": 1}, Watch()))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_killed_process_leaves_a_journal_that_is_continued(tmp_path, how):
    enough = asyncio.Event()

    async def answer(body, request):
        if len(server.asked) > 100:
            enough.set()
            await asyncio.Event().wait()
        return await echo(body, request)

    async with serving(answer) as server:
        arguments = [sys.executable, "-c", KILLED, server.endpoint.url, str(tmp_path)]
        process = await asyncio.create_subprocess_exec(
            *arguments, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        await enough.wait()
        process.send_signal(how)
        await process.wait()
    kept = {record.key for record in RunFolder(tmp_path).records()}
    assert 96 <= len(kept) <= 100, "all but what was in flight"
    async with serving() as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(500)})
    assert len(server.asked) == 500 - len(kept)
    assert found.tasks["t"].coverage["scored"] == 500
