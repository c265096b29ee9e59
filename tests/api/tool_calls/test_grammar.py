"""A model that writes at random makes only valid calls where a grammar holds it, in each form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer

from launcher.checkpoints.tokenizers.chat_template import StoredTemplate
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.templated import Names
from tests.api.runners import client_of
from tests.api.tool_model import TEMPLATE, function
from tests.checkpoints.tokenizer_inputs import backend
from tests.validate.mock import MockEngine

ADD = function("add", {"a": {"type": "integer", "minimum": 10, "maximum": 99}, "b": {"enum": ["x", "y"]}})
NOW = function("now", {})
MARKS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"]
FORMS = [("hermes", ""), ("llama3_json", ""), ("mistral", ""), ("mistral", "[ARGS]"), ("pythonic", "")]


@pytest.fixture(params=["special", "added", "text"])
def tokenizer(request: pytest.FixtureRequest) -> Iterator[HuggingFaceTokenizer]:
    """Tokenizers whose marks of calls are special tokens, tokens with a text, or none."""
    made: Tokenizer = backend("byte_level_gpt2")
    if request.param != "text":
        made.add_tokens([AddedToken(mark, special=request.param == "special", normalized=False) for mark in MARKS])
    names = Names({"eos_token": "<|end|>"}, StoredTemplate(TEMPLATE, Path("file")))
    found = HuggingFaceTokenizer(made, "file", names)
    yield found
    found.close()


def engine_of(tokenizer: HuggingFaceTokenizer, form: str, template: str) -> MockEngine:
    stored = StoredTemplate(TEMPLATE + f"{{# {template} #}}", Path("file"))
    tokenizer._names = Names(tokenizer._names.roles, stored)
    tokenizer.tool_call_parser = form
    return MockEngine(tokenizer)


async def asked(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    body = {
        "model": "mock",
        "messages": [{"role": "user", "content": "1+2="}],
        "max_tokens": 200,
        "tools": [ADD, NOW],
        "temperature": 2,
    }
    response = await client.post("/v1/chat/completions", json=body | more)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def check(call: dict[str, Any]) -> str:
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    assert call["type"] == "function"
    if name == "now":
        assert arguments == {}
    else:
        assert name == "add"
        assert arguments.keys() == {"a", "b"}
        assert 10 <= arguments["a"] <= 99
        assert arguments["b"] in ("x", "y")
    return str(name)


@pytest.mark.parametrize(("form", "template"), FORMS)
async def test_a_required_call_is_valid(tokenizer: HuggingFaceTokenizer, form: str, template: str) -> None:
    async with client_of(engine_of(tokenizer, form, template)) as client:
        for seed, tools in enumerate(([ADD], [NOW], [ADD, NOW])):
            single = len(tools) == 1
            more = {"parallel_tool_calls": not single, "seed": seed, "tools": tools}
            choice = await asked(client, tool_choice="required", **more)
            message, cut = choice["message"], choice["finish_reason"] == "length"
            whole = message.get("tool_calls", [])[: -1 if cut else None]
            names = [check(call) for call in whole]
            assert cut or (message["content"], choice["finish_reason"]) == (None, "tool_calls")
            assert not single or names == [tools[0]["function"]["name"]]
        choice = await asked(client, tool_choice={"type": "function", "function": {"name": "now"}})
        assert [check(call) for call in choice["message"]["tool_calls"]] == ["now"]


@pytest.mark.parametrize(("form", "template"), FORMS[:-1])
async def test_a_chosen_call_of_a_strict_function_is_valid(
    tokenizer: HuggingFaceTokenizer, form: str, template: str
) -> None:
    """A bias makes the model begin a call."""
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in (ADD, NOW)]
    engine = engine_of(tokenizer, form, template)
    opening = "{" if form == "llama3_json" else "<tool_call>" if form == "hermes" else "[TOOL_CALLS]"
    tokens = tokenizer.encode(opening, special=False)
    if len(tokens) > 1:
        pytest.skip("no token can be preferred")
    bias = {"logit_bias": {str(tokens[0]): 100}}
    async with client_of(engine) as client:
        choice = await asked(client, tools=strict, seed=1, parallel_tool_calls=False, **bias)
        assert choice["finish_reason"] in ("tool_calls", "length"), choice
        assert [check(call) for call in choice["message"]["tool_calls"]]


async def test_strict_calls_in_pythons_syntax_are_refused_where_they_are_chosen(
    tokenizer: HuggingFaceTokenizer,
) -> None:
    body = {
        "model": "mock",
        "messages": [{"role": "user", "content": "1"}],
        "tools": [function("now", {}, strict=True)],
    }
    async with client_of(engine_of(tokenizer, "pythonic", "")) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "strict" in response.json()["error"]["message"]
