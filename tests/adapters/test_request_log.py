from __future__ import annotations

import json

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.chain import all_running, pipeline
from launcher.adapters.line_writer import redacted
from launcher.adapters.request_log import RequestLog
from launcher.core.errors import AdapterError, TransportError, UserError
from launcher.core.types import Request, Response

ANSWER = Response(200, {"choices": [{"text": "é\ud800"}]}, {"Set-Cookie": "s", "X-Id": "1"}, latency_s=0.25)


def lines(folder, name="requests.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


async def test_requests_and_responses_are_written(server, tmp_path):
    log, request = (
        RequestLog(),
        Request("/v1/completions", {"prompt": "x"}, {"Authorization": "Bearer s3cret"}, "t/1/0"),
    )
    async with log.running(tmp_path, Downstream(None)):
        assert await log(request, server(ANSWER)) == ANSWER
    [line] = lines(tmp_path)
    assert line.pop("time").startswith("20")
    assert line == {
        "sample": "t/1/0",
        "path": "/v1/completions",
        "headers": {"Authorization": "<redacted>"},
        "request": {"prompt": "x"},
        "status": 200,
        "response_headers": {"Set-Cookie": "<redacted>", "X-Id": "1"},
        "response": ANSWER.body,
        "latency_s": 0.25,
    }
    assert "s3cret" not in (tmp_path / "requests.jsonl").read_text()


@pytest.mark.parametrize("name", ["authorization", "X-Api-Key", "api-key", "Cookie", "X-Auth-Token", "my-SECRET"])
def test_secret_headers_are_redacted(name):
    assert redacted({name: "v", "Accept": "a"}) == {name: "<redacted>", "Accept": "a"}


async def test_at_most_max_count_lines(server, tmp_path):
    log, upstream = RequestLog(max_count=2), server(ANSWER)
    async with log.running(tmp_path, Downstream(None)):
        for _ in range(5):
            await log(Request("/v1/completions", {}), upstream)
    assert len(lines(tmp_path)) == 2
    assert len(upstream.asked) == 5


async def test_a_failure_is_written_and_raised(server, tmp_path):
    log = RequestLog(file="log.jsonl")
    async with log.running(tmp_path, Downstream(None)):
        with pytest.raises(TransportError):
            await log(Request("/v1/completions", {}), server(TransportError("down")))
    assert lines(tmp_path, "log.jsonl")[0]["error"] == "TransportError: down"


async def test_a_stream_passes_event_by_event_and_is_written_at_its_end(server, stream, tmp_path):
    log = RequestLog()
    async with log.running(tmp_path, Downstream(None)):
        response = await log(Request("/v1/completions", {}), server(Response(200, events=stream([1, 2]))))
        assert await anext(response.events) == 1  # type: ignore[arg-type]
        assert lines(tmp_path) == []
        assert [event async for event in response.events] == [2]
    assert lines(tmp_path)[0]["response"] == [1, 2]


async def test_a_stream_that_breaks_keeps_what_came(server, stream, tmp_path):
    log = RequestLog()
    async with log.running(tmp_path, Downstream(None)):
        response = await log(
            Request("/v1/completions", {}), server(Response(200, events=stream([1, TransportError("cut")])))
        )
        with pytest.raises(TransportError):
            [event async for event in response.events]
    assert (lines(tmp_path)[0]["response"], lines(tmp_path)[0]["error"]) == ([1], "TransportError: cut")


async def test_a_second_session_adds_to_the_file(server, tmp_path):
    log = RequestLog(max_count=1)
    for _ in range(2):
        async with log.running(tmp_path, Downstream(None)):
            await log(Request("/v1/completions", {}), server(ANSWER))
    assert len(lines(tmp_path)) == 2


async def test_outside_of_a_run_it_refuses(server):
    with pytest.raises(AdapterError, match="no file"):
        await RequestLog()(Request("/v1/completions", {}), server())


async def test_a_full_disk_is_said_once_and_stops_no_request(server, tmp_path, caplog):
    (tmp_path / "requests.jsonl").symlink_to("/dev/full")
    async with all_running([log := RequestLog()], tmp_path, None) as failures:
        handler = pipeline([log], server(ANSWER), failures)
        for _ in range(3):
            assert (await handler(Request("/v1/completions", {}))).ok
    assert caplog.text.count("No space left") == 1
    assert failures.counts["request_log"] in (1, 2, 3)  # lines that were under way when the first failed are not known


@pytest.mark.parametrize(("key", "value"), [("file", "a/b"), ("file", ""), ("max_count", -1)])
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=rf"adapters\.request_log\.{key}"):
        RequestLog(**{key: value})


def test_it_changes_no_answers():
    assert not RequestLog.changes_answers
