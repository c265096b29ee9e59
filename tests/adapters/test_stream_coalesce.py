from __future__ import annotations

import pytest

from launcher.adapters.stream_coalesce import StreamCoalesce
from launcher.core.errors import AdapterError
from launcher.core.types import Request, Response


def call(index, **function):
    return {"index": index, "function": function}


CHAT = [
    {"id": "1", "model": "m", "choices": [{"index": 1, "delta": {"role": "assistant", "content": "a"}}]},
    {
        "id": "1",
        "model": "m",
        "choices": [{"index": 0, "delta": {"reasoning_content": "r", "content": None, "tool_calls": None}}],
    },
    {"id": "1", "choices": [{"index": 1, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}}]},
    {"id": "1", "choices": [{"index": 0, "delta": {"tool_calls": [{"id": "c", **call(0, name="f", arguments="")}]}}]},
    {"id": "1", "choices": [{"index": 0, "delta": {"tool_calls": [call(0, arguments='{"x"')]}}]},
    {
        "id": "1",
        "choices": [{"index": 0, "delta": {"tool_calls": [call(0, arguments=":1}")]}, "finish_reason": "tool_calls"}],
    },
    {
        "id": "1",
        "choices": [{"index": 1, "delta": {}, "finish_reason": "stop", "logprobs": {"content": [{"token": "c"}]}}],
    },
    {"id": "1", "choices": [], "usage": {"completion_tokens": 3}},
]
WHOLE = {
    "id": "1",
    "model": "m",
    "object": "chat.completion",
    "usage": {"completion_tokens": 3},
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"x":1}'}}],
            },
        },
        {
            "index": 1,
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "b"}, {"token": "c"}]},
            "message": {"role": "assistant", "content": "ab"},
        },
    ],
}


async def test_the_events_of_a_chat_make_one_answer(server, stream, chat):
    upstream = server(Response(200, events=stream(CHAT)))
    found = await StreamCoalesce()(chat({"role": "user", "content": "x"}), upstream)
    assert found.events is None
    assert found.body == WHOLE
    sent = upstream.asked[0].body
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


async def test_the_events_of_a_completion_make_one_answer(server, stream):
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.0], "text_offset": [0]}
    events = [
        {"choices": [{"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "b", "logprobs": logprobs, "finish_reason": "length"}]},
    ]
    found = await StreamCoalesce()(Request("/v1/completions", {}), server(Response(200, events=stream(events))))
    joined = {"tokens": ["a", "a"], "token_logprobs": [-1.0, -1.0], "text_offset": [0, 0]}
    assert found.body["choices"] == [{"index": 0, "text": "ab", "logprobs": joined, "finish_reason": "length"}]


@pytest.mark.parametrize("body", [{"stream": True}, {"echo": True}])
async def test_other_requests_pass(server, body):
    upstream, request = server(), Request("/v1/completions", body)
    await StreamCoalesce()(request, upstream)
    assert upstream.asked == [request]


NO_INDEX = {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}


@pytest.mark.parametrize(
    "events", [[], [{"error": {"message": "no"}}], ["x"], [NO_INDEX]], ids=["empty", "error", "no object", "call"]
)
async def test_a_faulty_stream_fails(server, stream, events):
    with pytest.raises(AdapterError, match="stream_coalesce"):
        await StreamCoalesce()(Request("/v1/completions", {}), server(Response(200, events=stream(events))))


async def test_an_error_passes(server):
    response = Response(429, {"error": {}})
    assert await StreamCoalesce()(Request("/v1/completions", {}), server(response)) is response
