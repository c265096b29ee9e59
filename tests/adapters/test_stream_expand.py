from __future__ import annotations

import pytest

from launcher.adapters.stream_coalesce import coalesced
from launcher.adapters.stream_expand import StreamExpand
from launcher.core.errors import AdapterError
from launcher.core.responses import check_stream
from launcher.core.types import Json, Request, Response

USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"id": "1", "object": "text_completion", "model": "m", "usage": USAGE}
CHAT = TEXT | {"object": "chat.completion"}
ANSWERS: dict[str, dict[str, Json]] = {
    "text": TEXT
    | {"choices": [{"index": i, "text": t, "logprobs": None, "finish_reason": "stop"} for i, t in enumerate("ab")]},
    "chat": CHAT
    | {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "length"}]},
    "tools": CHAT
    | {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
                "finish_reason": "tool_calls",
            }
        ]
    },
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("usage", [True, False])
async def test_a_whole_answer_becomes_a_stream_of_the_same_meaning(server, kind, usage):
    path = "/v1/completions" if kind == "text" else "/v1/chat/completions"
    upstream = server(Response(200, ANSWERS[kind]))
    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": usage}}
    found = await StreamExpand()(Request(path, body), upstream)
    events = [event async for event in found.events]
    assert check_stream(events) is None
    assert upstream.asked[0].body == {"prompt": "x"}

    async def again():
        for event in events:
            yield event

    expected = ANSWERS[kind] if usage else {name: value for name, value in ANSWERS[kind].items() if name != "usage"}
    assert await coalesced(again(), in_chat=kind != "text") == expected


async def test_other_requests_and_errors_pass(server):
    request, error = Request("/v1/completions", {"stream": False}), Response(500, {})
    assert (await StreamExpand()(request, server(error))) is error
    assert (await StreamExpand()(Request("/v1/completions", {"stream": True}), server(error))) is error


async def test_an_answer_without_choices_fails(server):
    with pytest.raises(AdapterError, match="choices"):
        await StreamExpand()(Request("/v1/completions", {"stream": True}), server(Response(200, {})))
