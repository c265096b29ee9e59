from __future__ import annotations

import json

from launcher.adapters.base import Downstream
from launcher.adapters.token_log import TokenLog
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {"prompt": "x"}, sample="t/1/0")
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "completion_tokens_details": {"reasoning_tokens": 2},
}
NONE = dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"])


async def logged(tmp_path, handler):
    log = TokenLog()
    async with log.running(tmp_path, Downstream(None)):
        found = await log(REQUEST, handler)
        if found.events is not None:
            async for _ in found.events:
                pass
    [line] = [json.loads(line) for line in (tmp_path / "tokens.jsonl").read_text().splitlines()]
    return {name: line[name] for name in NONE}


async def test_the_counts_of_an_answer(server, tmp_path):
    found = await logged(tmp_path, server(Response(200, {"choices": [], "usage": USAGE})))
    assert found == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "cached_tokens": None,
        "reasoning_tokens": 2,
    }


async def test_an_answer_without_usage_has_no_counts(server, tmp_path):
    assert await logged(tmp_path, server(Response(500, "page"))) == NONE


async def test_the_last_usage_of_a_stream_counts(server, stream, tmp_path):
    events = [{"usage": {"prompt_tokens": 1}}, {"choices": []}, {"usage": {"prompt_tokens": 3}}, {"usage": None}]
    found = await logged(tmp_path, server(Response(200, events=stream(events))))
    assert found == {**NONE, "prompt_tokens": 3}
