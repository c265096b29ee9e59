"""Chats with tools: what reaches the prompt, what comes back, whole and streamed, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from launcher.core.tokenizer import ByteTokenizer
from tests.api.runners import Scripted, client_of, said
from tests.api.tool_model import function

CHATS = "/v1/chat/completions"
ADD = function("add", {"a": {"type": "integer"}})
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALK = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "seven"}
WRITTEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ANSWER = f"I add.\n{WRITTEN}\n{WRITTEN}"


def scripted(*pieces: str, parser: str = "auto") -> Scripted:
    engine = Scripted([*map(said, pieces), said(b"\x00", "stop")], ByteTokenizer())
    engine.context_length = 4000
    engine.tokenizer.tool_call_parser = parser
    return engine


def body(**more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [USER], "tools": [ADD], "max_tokens": 900} | more


async def test_calls_come_back_with_the_text_before_them() -> None:
    async with client_of(scripted(ANSWER)) as client:
        found = (await client.post(CHATS, json=body(n=2, logprobs=True))).json()
    assert len(found["choices"]) == 2
    for choice in found["choices"]:
        message = choice["message"]
        assert (message["content"], choice["finish_reason"]) == ("I add.", "tool_calls")
        assert [call["function"] for call in message["tool_calls"]] == [{"name": "add", "arguments": '{"a": 1}'}] * 2
        assert {call["type"] for call in message["tool_calls"]} == {"function"}
        assert len(choice["logprobs"]["content"]) == len(ANSWER) + 1
    ids = [call["id"] for choice in found["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4
    assert found["usage"]["completion_tokens"] == 2 * (len(ANSWER) + 1)


async def test_a_stream_makes_the_whole_answer() -> None:
    async with client_of(scripted(*ANSWER)) as client:
        sent = (await client.post(CHATS, json=body(stream=True, logprobs=True))).text
    events = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events]
    calls: dict[int, list[dict[str, Any]]] = {}
    for choice in choices:
        for piece in choice["delta"].get("tool_calls", ()):
            calls.setdefault(piece["index"], []).append(piece)
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "I add."
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert sorted(calls) == [0, 1]
    for first, *rest in calls.values():
        assert first["function"] == {"name": "add", "arguments": ""}
        assert (first["type"], bool(first["id"])) == ("function", True)
        assert all(piece.keys() == {"index", "function"} for piece in rest)
        assert json.loads("".join(piece["function"]["arguments"] for piece in rest)) == {"a": 1}
    assert sum(len(choice["logprobs"]["content"]) for choice in choices if choice["logprobs"]) == len(ANSWER) + 1


async def test_what_cannot_be_read_stays_content_and_is_counted() -> None:
    text = "<tool_call>{add: 1}</tool_call>"
    async with client_of(scripted(text)) as client:
        (choice,) = (await client.post(CHATS, json=body())).json()["choices"]
        metrics = (await client.get("/metrics")).text
    assert (choice["message"]["content"].rstrip("\x00"), choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]
    assert re.search(r'launcher_tool_calls_total\{outcome="unparsed"\} 1\.0', metrics)


@pytest.mark.parametrize("value", ['"\\ud83c"', "1e999", "NaN"])
async def test_what_an_answer_cannot_carry_stays_content_whole_and_streamed(value: str) -> None:
    text = f'<tool_call>{{"name": "add", "arguments": {{"a": {value}}}}}</tool_call>'
    async with client_of(scripted(*text)) as client:
        (choice,) = (await client.post(CHATS, json=body())).json()["choices"]
        sent = (await client.post(CHATS, json=body(stream=True))).text
    assert (choice["message"]["content"].rstrip("\x00"), choice["finish_reason"]) == (text, "stop")
    events = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas).rstrip("\x00") == text
    assert sent.rstrip().endswith("[DONE]")


@pytest.mark.parametrize("arguments", ["", "[1]", '{"a":NaN}', '{"a":1e999}', '{"a":"\\ud83c"}', "{"])
async def test_earlier_arguments_are_a_json_object(arguments: str) -> None:
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, RESULT]
    async with client_of(scripted("ok")) as client:
        response = await client.post(CHATS, json=body(messages=messages))
    assert (response.status_code, "JSON object" in response.json()["error"]["message"]) == (400, True)
    assert response.json()["error"]["param"] == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize("more", [{"tool_choice": "none"}, {"tools": []}, {"tools": [], "tool_choice": "auto"}])
async def test_text_is_not_searched_unless_tools_are_offered(more: dict[str, Any]) -> None:
    async with client_of(scripted(WRITTEN)) as client:
        (choice,) = (await client.post(CHATS, json=body(**more))).json()["choices"]
    assert choice["message"]["content"].rstrip("\x00") == WRITTEN
    assert choice["finish_reason"] == "stop"


async def prompt_of(client: httpx.AsyncClient, **asked: Any) -> str:
    response = await client.post("/tokenize", json=asked)
    assert response.status_code == 200, response.text
    return bytes(response.json()["tokens"]).decode()


async def test_tools_calls_and_results_are_in_the_prompt() -> None:
    engine = scripted("ok")
    async with client_of(engine) as client:
        seen = await prompt_of(client, messages=[*TALK, RESULT], tools=[ADD])
        await client.post(CHATS, json=body(messages=[*TALK, RESULT]))
    assert '"add"' in seen
    assert WRITTEN in seen
    assert "tool: seven" in seen
    assert bytes(engine.asked[0].prompt).decode() == seen
    assert "strict" not in seen


@pytest.mark.parametrize(
    ("more", "param", "word"),
    [
        ({"tools": [ADD, ADD]}, "tools", "two functions"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "'function'"),
        ({"tools": [function("a b", {})]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
         "tools[0].function.parameters", "'array'"),
        ({"tools": [{"type": "function", "function": {"name": "f", "returns": {}}}]}, "tools[0].function.returns",
         "Unknown"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["object", "null"]}}}]},
         "tools[0].function.parameters", "expected the type 'object', but it is an array"),
        ({"messages": [*TALK, RESULT, RESULT]}, "messages[3].tool_call_id", "without a result"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL, CALL]}]}, "messages[1].tool_calls[1].id",
         "'c1'"),
        ({"tool_choice": "any"}, "tool_choice", "'required'"),
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice", "'sub'"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "needs 'tools'"),
        ({"tool_choice": "required"}, "tool_choice", "no model"),
        ({"tools": [function("f", {}, strict=True)]}, "tools", "no model"),
        ({"response_format": {"type": "json_object"}}, "response_format", "tool_choice='none'"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs", "tool_choice='none'"),
        ({"functions": [ADD["function"]]}, "functions", "Use 'tools'"),
        ({"function_call": {"name": "add"}}, "function_call", "Use 'tool_choice'"),
        ({"messages": [USER, RESULT]}, "messages[1].tool_call_id", "'c1'"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [
            {**CALL, "function": {"name": "add", "arguments": "[1]"}}]}]},
         "messages[1].tool_calls[0].function.arguments", "JSON object"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused(more: dict[str, Any], param: str, word: str) -> None:
    async with client_of(scripted("ok")) as client:
        response = await client.post(CHATS, json=body(**more))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert word in error["message"]


async def test_an_id_may_come_again_after_its_result() -> None:
    async with client_of(scripted("ok")) as client:
        response = await client.post(CHATS, json=body(messages=[*TALK, RESULT, TALK[1], RESULT]))
    assert response.status_code == 200, response.text


async def test_calls_are_not_parallel_where_the_request_says_so() -> None:
    async with client_of(scripted(ANSWER)) as client:
        (choice,) = (await client.post(CHATS, json=body(parallel_tool_calls=False))).json()["choices"]
        metrics = (await client.get("/metrics")).text
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["message"]["content"].rstrip("\x00") == f"I add.\n{WRITTEN}"
    assert choice["finish_reason"] == "tool_calls"
    assert re.search(r'launcher_tool_calls_total\{outcome="unparsed"\} 1\.0', metrics)


async def test_a_server_without_a_parser_refuses_tools() -> None:
    async with client_of(scripted("ok", parser="none")) as client:
        response = await client.post(CHATS, json=body())
        unused = await client.post(CHATS, json=body(tool_choice="none"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_tools")
    assert unused.status_code == 200
