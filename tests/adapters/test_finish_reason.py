from __future__ import annotations

import json

import pytest

from launcher.adapters.base import Downstream
from launcher.adapters.finish_reason import FinishReason
from launcher.core.types import Request, Response


def answer(finish="stop", used: object = 5, choices=1):
    return Response(
        200,
        {
            "choices": [{"index": i, "text": "x", "finish_reason": finish} for i in range(choices)],
            "usage": {"completion_tokens": used},
        },
    )


async def finish(server, response, **body):
    found = await FinishReason()(Request("/v1/completions", body), server(response))
    return found.body["choices"][0]["finish_reason"]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("used", "expected"), [(5, "length"), (4, "stop"), (None, "stop")])
async def test_a_stop_at_the_limit_is_a_length(server, limit, used, expected):
    assert await finish(server, answer(used=used), **{limit: 5}) == expected


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (answer("content_filter"), {"max_tokens": 5}),
        (answer(choices=2), {"max_tokens": 5}),
        (answer(), {}),
        (answer(), {"max_tokens": 5, "echo": True}),
    ],
    ids=["other reason", "two choices", "no limit", "echo"],
)
async def test_other_answers_stay(server, response, body):
    assert await finish(server, response, **body) == response.body["choices"][0]["finish_reason"]


async def test_corrections_are_counted(server, tmp_path):
    adapter = FinishReason()
    async with adapter.running(tmp_path, Downstream(None)):
        for used in (5, 4):
            await adapter(Request("/v1/completions", {"max_tokens": 5}), server(answer(used=used)))
    assert json.loads((tmp_path / "finish_reason.json").read_text()) == {"answers": 2, "corrected": 1}


async def test_a_stream_and_an_error_pass(server, stream):
    for response in (Response(200, events=stream([])), Response(500, {})):
        assert await FinishReason()(Request("/v1/completions", {"max_tokens": 5}), server(response)) is response
