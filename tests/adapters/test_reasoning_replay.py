from __future__ import annotations

import pytest

from launcher.adapters.chain import pipeline
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.reasoning_replay import ReasoningReplay
from launcher.core.types import Request, Response

USER = {"role": "user", "content": "hello"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def answer(content="hi", **more):
    message = {"role": "assistant", "content": content, **more}
    return Response(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def second_turn(adapter, server, chat, first, quoted, before=USER):
    await adapter(chat(USER), server(first))
    upstream = server()
    await adapter(chat(before, {"role": "assistant", **quoted}, USER), upstream)
    return upstream.asked[0].body["messages"][1]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_comes_back_with_its_message(server, chat, name):
    found = await second_turn(ReasoningReplay(), server, chat, answer(**{name: "why"}), {"content": "hi"})
    assert found == {"role": "assistant", "content": "hi", name: "why"}


async def test_tags_that_an_adapter_behind_it_separates_come_back(server, chat):
    adapters = [ReasoningReplay(), Reasoning()]
    upstream = server(answer("<think>why</think>hi"))
    handler = pipeline(adapters, upstream)
    await handler(chat(USER))
    await handler(chat(USER, {"role": "assistant", "content": "hi"}, USER))
    assert upstream.asked[1].body["messages"][1]["reasoning_content"] == "why"


async def test_a_message_of_tool_calls_is_known_by_them(server, chat):
    first = answer(None, tool_calls=[CALL], reasoning_content="why")
    found = await second_turn(ReasoningReplay(), server, chat, first, {"content": "", "tool_calls": [CALL]})
    assert found["reasoning_content"] == "why"


@pytest.mark.parametrize(
    ("quoted", "before"),
    [({"content": "other"}, USER), ({"content": "hi"}, {"role": "user", "content": "another question"})],
    ids=["another answer", "another conversation"],
)
async def test_reasoning_belongs_to_one_message_of_one_conversation(server, chat, quoted, before):
    found = await second_turn(ReasoningReplay(), server, chat, answer(reasoning_content="why"), quoted, before)
    assert "reasoning_content" not in found


async def test_reasoning_that_the_client_sends_stays(server, chat):
    quoted = {"content": "hi", "reasoning_content": "mine"}
    found = await second_turn(ReasoningReplay(), server, chat, answer(reasoning_content="why"), quoted)
    assert found["reasoning_content"] == "mine"


async def test_the_oldest_is_forgotten(server, chat):
    adapter = ReasoningReplay(max_messages=1)
    await adapter(chat(USER), server(answer("one", reasoning_content="1")))
    found = await second_turn(adapter, server, chat, answer("two", reasoning_content="2"), {"content": "one"})
    assert "reasoning_content" not in found


async def test_completions_pass(server):
    upstream, request = server(), Request("/v1/completions", {"prompt": "x"})
    await ReasoningReplay()(request, upstream)
    assert upstream.asked == [request]
