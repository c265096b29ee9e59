from __future__ import annotations

import json

import pytest
from aiohttp import web

from launcher.adapters.payload import Payload
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.retry import Retry
from launcher.core.redaction import forget, hide
from launcher.evaluate import failed_exchanges
from tests.evaluate.evaluation_server import Echoes, said, serving
from tests.evaluate.test_evaluator import run


def files(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "failed").glob("*"))]


def by_sample(folder):
    return {found["sample"]: found for found in files(folder)}


def refusal(message, headers=None):
    return web.json_response({"error": {"message": message}}, status=400, headers=headers)


async def answer(body, request):
    """Refuse the sample 1, break at 2, give an answer with a fault to 3, and no JSON to 4."""
    match body["prompt"]:
        case "1":
            return refusal("too long", {"X-Id": "it"})
        case "2":
            request.transport.abort()
        case "3":
            return web.json_response({"choices": []})
        case "4":
            return web.Response(text="no json")
    return said(body["prompt"])


async def test_the_exchanges_of_failed_samples_are_kept_as_they_went_over_the_wire(tmp_path):
    adapters = [Payload(add={"user": "me"}, add_headers={"X-Team": "one", "X-Api-Key": "secret-1"})]
    async with serving(answer) as server:
        await run(server, tmp_path, tasks={"t": Echoes(6)}, adapters=adapters, retry_failed=False, concurrency=1)
    found = by_sample(tmp_path)
    assert sorted(found) == ["t/1/0", "t/2/0", "t/3/0", "t/4/0"]
    first = found["t/1/0"]
    assert first["status"] == "refused"
    assert "too long" in first["reason"]
    assert first["requests"] == [{"path": "/v1/completions", "body": {"model": "m", "prompt": "1"}}]
    (exchange,) = first["exchanges"]
    assert exchange["sent"] == {
        "path": "/v1/completions",
        "headers": {"X-Team": "one", "X-Api-Key": "<redacted>"},
        "body": {"model": "m", "prompt": "1", "user": "me"},
    }
    assert exchange["answer"]["status"] == 400
    assert exchange["answer"]["headers"]["X-Id"] == "it"
    assert exchange["answer"]["body"] == {"error": {"message": "too long"}}
    assert "without an answer" in found["t/2/0"]["exchanges"][0]["error"]
    assert found["t/3/0"]["exchanges"][0]["fault"] == "the answer has 0 choices, expected 1"
    assert "no JSON" in found["t/4/0"]["exchanges"][0]["error"]
    assert failed_exchanges.count(tmp_path) == 4


async def test_an_answer_that_an_adapter_refuses_is_shown(tmp_path):
    async def odd(body, request):
        return said("odd</think>")

    async with serving(odd) as server:
        await run(server, tmp_path, tasks={"t": Echoes(1)}, adapters=[Reasoning()], retry_failed=False)
    (found,) = files(tmp_path)
    assert "reasoning" in found["reason"]
    assert found["exchanges"][0]["answer"]["body"]["choices"][0]["text"] == "odd</think>"


async def test_a_request_that_succeeds_in_the_end_is_not_kept(tmp_path):
    asked = []

    async def at_first(body, request):
        asked.append(body)
        return web.Response(status=500) if len(asked) % 2 else said(body["prompt"])

    async with serving(at_first) as server:
        await run(server, tmp_path, tasks={"t": Echoes(3)}, adapters=[Retry(first_delay_s=0.001)], concurrency=1)
    assert files(tmp_path) == []


async def test_a_sample_that_is_asked_again_and_scored_gives_its_place_up(tmp_path):
    seen = []

    async def second_time(body, request):
        seen.append(body["prompt"])
        bad = body["prompt"] == "5" or (body["prompt"] in "12" and seen.count(body["prompt"]) == 1)
        return web.Response(text="no json") if bad else said(body["prompt"])

    async with serving(second_time) as server:
        await run(server, tmp_path, tasks={"t": Echoes(6)}, concurrency=1, keep_failures=3)
    assert list(by_sample(tmp_path)) == ["t/5/0"]


@pytest.mark.parametrize("most", [0, 2])
async def test_only_the_first_are_kept_also_by_a_resumed_run(tmp_path, most):
    async def refuse(body, request):
        return refusal("no")

    async with serving(refuse) as server:
        for count in (3, 5):
            tasks = {"t": Echoes(count)}
            await run(server, tmp_path, tasks=tasks, keep_failures=most, concurrency=1, retry_failed=False)
    assert [found["sample"] for found in files(tmp_path)] == [f"t/{n}/0" for n in range(most)]


async def test_a_resumed_run_removes_what_it_has_mended(tmp_path):
    works: list[bool] = []

    async def later(body, request):
        return said(body["prompt"]) if works else web.json_response({"choices": []})

    async with serving(later) as server:
        await run(server, tmp_path, tasks={"t": Echoes(2)}, retry_failed=False)
        assert len(files(tmp_path)) == 2
        works.append(True)
        await run(server, tmp_path, tasks={"t": Echoes(2)}, retry_failed=False)
    assert files(tmp_path) == []


async def test_known_secrets_are_redacted_and_large_bodies_cut(tmp_path):
    hide("hunter2-is-secret", "MY_KEY")

    async def leaks(body, request):
        return refusal("hunter2-is-secret")

    try:
        async with serving(leaks) as server:
            adapters = [Payload(add={"metadata": "y" * 300_000})]
            await run(server, tmp_path, tasks={"t": Echoes(1)}, adapters=adapters, retry_failed=False)
    finally:
        forget()
    (path,) = (tmp_path / "failed").iterdir()
    assert "hunter2" not in path.read_text()
    assert "characters are left out" in path.read_text()
    assert path.stat().st_size < 150_000
    assert path.stat().st_mode & 0o077 == 0


async def test_what_the_disk_refuses_fails_no_sample(tmp_path, caplog):
    (tmp_path / "failed").write_text("a file in the place of the folder")
    async with serving(answer) as server:
        found = await run(server, tmp_path, tasks={"t": Echoes(6)}, retry_failed=False)
    assert found.tasks["t"].coverage["scored"] == 2
    assert caplog.text.count("no more failed exchanges are kept") == 1
