from __future__ import annotations

import pytest

from launcher.adapters.validate_response import ValidateResponse
from launcher.core.errors import AdapterError
from launcher.core.types import Request, Response

REQUEST = Request("/v1/completions", {"prompt": "x", "max_tokens": 1})
GOOD = {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}


async def test_a_good_answer_passes(server):
    found = await ValidateResponse(require=["usage.completion_tokens"])(REQUEST, server(Response(200, GOOD)))
    assert found.body == GOOD


@pytest.mark.parametrize("body", [{"choices": []}, {}, "x", {"choices": [{"index": 1, "text": "a"}]}])
async def test_a_faulty_answer_fails(server, body):
    with pytest.raises(AdapterError, match="validate_response"):
        await ValidateResponse()(REQUEST, server(Response(200, body)))


@pytest.mark.parametrize("path", ["usage.prompt_tokens", "id", "choices.text"])
async def test_a_missing_field_fails(server, path):
    with pytest.raises(AdapterError, match=f"no '{path}'"):
        await ValidateResponse(require=[path])(REQUEST, server(Response(200, GOOD)))


async def test_an_error_and_another_path_pass(server):
    for request, response in ((REQUEST, Response(500, {})), (Request("/v1/models", {}), Response(200, {"data": []}))):
        assert await ValidateResponse()(request, server(response)) == response


async def test_a_stream_breaks_off_at_its_fault(server, stream):
    events = [{"choices": [{"index": 0, "text": "a"}]}, {"error": {"message": "no"}}]
    found = await ValidateResponse()(REQUEST, server(Response(200, events=stream(events))))
    assert found.events is not None
    assert await anext(found.events) == events[0]
    with pytest.raises(AdapterError, match="an event is an error"):
        await anext(found.events)


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([], "no choice 0"),
        ([{"choices": [{"index": 0, "text": "a"}]}], "no choice 1"),
        ([{"choices": [{"index": 1, "text": "a"}, {"index": 0, "text": "b"}]}], "no event of the stream has 'usage'"),
        ([{"choices": [{"index": 1, "text": "a"}, {"index": 0, "text": "b"}]}, {"choices": [], "usage": {}}], None),
    ],
)
async def test_a_stream_that_lacks_something_breaks_off_at_its_end(server, stream, events, fault):
    request = Request("/v1/completions", {"prompt": ["x", "y"], "stream": True})
    found = await ValidateResponse(require=["usage"])(request, server(Response(200, events=stream(events))))
    assert found.events is not None
    for event in events:
        assert await anext(found.events) == event
    with pytest.raises(AdapterError if fault else StopAsyncIteration, match=fault):
        await anext(found.events)
