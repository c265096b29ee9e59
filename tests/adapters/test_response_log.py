from __future__ import annotations

import json

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.response_log import ResponseLog
from launcher.core.errors import AdapterError, UserError
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {"prompt": "x"}, sample="t/1/0")


def lines(folder):
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


async def test_answers_are_written_without_their_requests(server, tmp_path):
    log = ResponseLog()
    async with log.running(tmp_path, Downstream(None)):
        await log(REQUEST, server(Response(200, {"choices": []}, latency_s=0.25)))
    [line] = lines(tmp_path)
    assert line.pop("time").startswith("20")
    assert line == {
        "sample": "t/1/0",
        "path": "/v1/completions",
        "status": 200,
        "latency_s": 0.25,
        "cached": False,
        "response": {"choices": []},
    }


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [({"errors_only": True}, [500, 404]), ({"max_count": 2}, [200, 500]), ({"max_count": 0}, [])],
)
async def test_which_answers_are_written(server, tmp_path, settings, statuses):
    log = ResponseLog(**settings)
    async with log.running(tmp_path, Downstream(None)):
        for status in (200, 500, 404):
            await log(REQUEST, server(Response(status, {})))
    assert [line["status"] for line in lines(tmp_path)] == statuses


async def test_a_stream_is_written_as_far_as_it_came(server, stream, tmp_path):
    log = ResponseLog()
    async with log.running(tmp_path, Downstream(None)):
        found = await log(REQUEST, server(Response(200, events=stream([{"n": 1}, ConnectionError("gone")]))))
        assert found.events is not None
        assert await anext(found.events) == {"n": 1}
        with pytest.raises(ConnectionError):
            await anext(found.events)
    assert lines(tmp_path)[0]["response"] == [{"n": 1}]


async def test_it_works_in_a_run_only(server):
    with pytest.raises(AdapterError, match="outside of a run"):
        await ResponseLog()(REQUEST, server())


def test_the_file_is_in_the_run_folder():
    with pytest.raises(UserError, match=r"adapters\.response_log\.file"):
        ResponseLog(file="a/b")
