"""Calls of tools through OpenAI's client, from every backend; the model's answers are forced by a grammar."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from launcher.core.types import Endpoint
from tests.api.contract.conftest import SERVERS, Api, Fleet
from tests.api.tool_model import function

ADD = function("add", {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "boolean"}})
NOW = function("now", {})
CHAT: Any = [{"role": "user", "content": "1+2="}]


@pytest.fixture(params=[name for name in sorted(SERVERS) if not name.endswith("echo")])
def endpoint(request: pytest.FixtureRequest, fleet: Fleet) -> Endpoint:
    """A server with a model."""
    return fleet.get(request.param)


@pytest.fixture
def asked(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "model": endpoint.model, "messages": CHAT, "tools": [ADD, NOW], "max_tokens": 120, "seed": 1,
        "tool_choice": {"type": "function", "function": {"name": "add"}},
    }  # fmt: skip


def check(arguments: str) -> None:
    found = json.loads(arguments)
    assert found.keys() == {"a", "b"}
    assert 0 <= found["a"] <= 99
    assert isinstance(found["b"], bool)


async def test_a_forced_call_is_valid_whole_and_streamed(sdk: openai.AsyncOpenAI, asked: dict[str, Any]) -> None:
    answer = await sdk.chat.completions.create(**asked, n=2)
    for choice in answer.choices:
        (call,) = choice.message.tool_calls or ()
        assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "add")
        check(call.function.arguments)
    async with sdk.chat.completions.stream(**asked) as stream:
        streamed = await stream.get_final_completion()
    (call,) = streamed.choices[0].message.tool_calls or ()
    assert streamed.choices[0].finish_reason == "tool_calls"
    assert call.function.arguments == answer.choices[0].message.tool_calls[0].function.arguments


async def test_a_conversation_goes_on_with_the_result(sdk: openai.AsyncOpenAI, asked: dict[str, Any]) -> None:
    first = await sdk.chat.completions.create(**asked)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "3"}
    talk = [*CHAT, message.model_dump(exclude_none=True), result]
    more = await sdk.chat.completions.create(**asked | {"messages": talk, "tool_choice": "auto", "max_tokens": 4})
    assert more.usage
    assert first.usage
    assert more.usage.prompt_tokens > first.usage.prompt_tokens + 40
    assert more.choices[0].finish_reason in ("stop", "length")


async def test_the_echo_engine_plays_the_calls_of_its_question(fleet: Fleet) -> None:
    played = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    body = {"messages": [{"role": "user", "content": played}], "tools": [NOW], "temperature": 0}
    endpoint = fleet.get("inline-echo")
    async with openai.AsyncOpenAI(base_url=endpoint.url, api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model=endpoint.model, **body)  # type: ignore[call-overload]
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, answer.choices[0].finish_reason) == ("now", "tool_calls")


async def test_tools_cost_tokens_of_the_prompt(api: Api) -> None:
    asked: tuple[dict[str, Any], ...] = ({}, {"tools": [ADD, NOW]})
    without, with_tools = [(await api.post("/tokenize", messages=CHAT, **more)).json()["count"] for more in asked]
    assert with_tools > without
