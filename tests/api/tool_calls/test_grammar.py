"""A model that writes at random makes only valid calls where a grammar holds it, in each form."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer

from launcher.api.detokenizer import TextDelta
from launcher.api.request_schema import Function
from launcher.api.structured import _bytes
from launcher.api.tool_calls import deepseek, dsml
from launcher.api.tool_calls.formats import format_of
from launcher.api.tool_calls.request import ToolUse, _tokens
from launcher.checkpoints.tokenizers.chat_template import StoredTemplate
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.templated import Names
from launcher.engines.runtime.grammar import Grammars
from tests.api.runners import client_of
from tests.api.tool_calls.test_round_trips import written
from tests.api.tool_model import TEMPLATE, function
from tests.checkpoints.tokenizer_inputs import backend
from tests.validate.mock import MockEngine

ADD = function("add", {"a": {"type": "integer", "minimum": 10, "maximum": 99}, "b": {"enum": ["x", "y"]}})
NOW = function("now", {})
MARKS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<arg_key>"]
MARKS += ["</arg_key>", "<arg_value>", "</arg_value>", deepseek.OPEN, deepseek.CLOSE, deepseek.BEGIN, deepseek.END]
MARKS += [deepseek.BETWEEN, dsml.DSML, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"]
MARKS += ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"]
ELEMENTS = [("qwen3_coder", ""), ("glm45", ""), ("glm47", ""), ("deepseek_v32", "")]
FORMS = [("hermes", ""), ("llama3_json", ""), ("mistral", ""), ("mistral", "[ARGS]"), ("granite", ""), *ELEMENTS]
FORMS += [("deepseek_v3", ""), ("deepseek_v31", ""), ("kimi_k2", ""), ("deepseek_v4", ""), ("pythonic", "")]
OPENINGS = {"llama3_json": "{", "mistral": "[TOOL_CALLS]"}
OPENINGS |= {"deepseek_v3": deepseek.OPEN, "deepseek_v31": deepseek.OPEN, "kimi_k2": "<|tool_calls_section_begin|>"}
OPENINGS |= {form.name: form.marks[0] for form in (dsml.DeepSeekV32(), dsml.DeepSeekV4())}


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
        "max_tokens": 380,
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


@pytest.mark.parametrize(("form", "template"), [each for each in FORMS if each[0] not in ("pythonic", "granite")])
async def test_a_chosen_call_of_a_strict_function_is_valid(
    tokenizer: HuggingFaceTokenizer, form: str, template: str
) -> None:
    """A bias makes the model begin a call."""
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in (ADD, NOW)]
    engine = engine_of(tokenizer, form, template)
    tokens = tokenizer.encode(OPENINGS.get(form, "<tool_call>"), special=False)
    if len(tokens) > 1:
        pytest.skip("no token can be preferred")
    bias = {"logit_bias": {str(tokens[0]): 100}}
    async with client_of(engine) as client:
        choice = await asked(client, tools=strict, seed=1, parallel_tool_calls=False, **bias)
        assert choice["finish_reason"] in ("tool_calls", "length"), choice
        assert [check(call) for call in choice["message"]["tool_calls"]]


@pytest.mark.parametrize(("form", "template"), [each for each in FORMS if each[0] != "pythonic"])
def test_a_grammar_takes_the_tokens_of_what_templates_write(
    tokenizer: HuggingFaceTokenizer, form: str, template: str
) -> None:
    """Forced, chosen of a strict function, and chosen of another one."""
    found = format_of(form, template)
    assert found is not None
    properties = {"text": {"type": "string"}, "count": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    grammars, marks = Grammars(tokenizer, tokenizer.vocab_size), _tokens(found, tokenizer)
    for forced, strict in ((True, False), (False, True), (False, False)):
        if not forced and not found.holds_chosen:
            continue
        tools = [Function(name="f", parameters=schema, strict=strict), Function(name="g", strict=True)]
        grammar = ToolUse(found, tools, marks, forced=forced, single=True).grammar()
        before = "" if forced or found.bare else "I look. < "
        for text in ("x", "a\nb", "a < b </ c", "</x>"):
            call = ("f", {"text": text, "count": 7})
            answer = mistral_list(call) if (form, template) == ("mistral", "") else written(form, call)
            constraint = grammars.constraint(grammar)
            for token in tokenizer.encode(before + answer, special=False):
                assert constraint.allowed()[token], (answer, tokenizer.token_name(token))
                constraint.accept(token)


def mistral_list(*calls: tuple[str, dict[str, Any]]) -> str:
    return "[TOOL_CALLS]" + json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])


DEEP = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/Color"}, "maxItems": 2}},
    "additionalProperties": False,
}
ANY = {
    "text": {"type": "string", "description": "a text"},
    "short": {"type": "string", "minLength": 2, "maxLength": 3},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    "color": {"$ref": "#/$defs/Color"},
    "either": {"anyOf": [{"enum": ["x", "1"]}, {"type": "boolean"}]},
    "deep": DEEP,
    "count": {"type": ["integer", "null"], "minimum": 5, "maximum": 6},
    "fixed": {"const": 3},
}
DEFS = {"Color": {"enum": ["red", "1"], "type": "string"}}


def walked(grammar: str, closing: str, seed: int) -> str:
    """Return a text that a grammar allows, drawn byte by byte; it begins to close values again and again."""
    matcher, dice = LLMatcher(_bytes(), grammar, log_level=0), random.Random(seed)
    found, plan = b"", b""
    while len(found) < 5000:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [token for token in range(257) if mask[token // 8] >> (token % 8) & 1]
        if 256 in allowed:
            return found.decode()
        plan = plan or (closing.encode() if dice.random() < 0.2 else b"")
        if not plan or plan[0] not in allowed:
            plan = bytes([dice.choice([token for token in allowed if 32 <= token < 127] or allowed)])
        matcher.consume_token(plan[0])
        found, plan = found + plan[:1], plan[1:]
    raise AssertionError(found)


@pytest.mark.parametrize("form", [form for form, _ in ELEMENTS])
@pytest.mark.parametrize("required", [[*ANY], [*ANY][::2]])
def test_arguments_that_are_elements_are_valid_by_their_schemas(form: str, required: list[str]) -> None:
    schema = {
        "type": "object", "properties": ANY, "required": required, "additionalProperties": False, "$defs": DEFS
    }  # fmt: skip
    validator, found_format = jsonschema.Draft202012Validator(schema), format_of(form, "")
    assert found_format is not None
    assert found_format.elements is not None
    use = ToolUse(found_format, [Function(name="f", parameters=schema)], {}, forced=True, single=True)
    for seed in range(12):
        answer = walked(use.grammar(), found_format.elements.line + found_format.elements.close, seed)
        delta = TextDelta(answer, finish="stop")
        use.reader().read(delta)
        assert (delta.text, delta.unparsed) == ("", 0), answer
        arguments = "".join(call.arguments for call in delta.calls)
        validator.validate(json.loads(arguments))


@pytest.mark.parametrize(
    ("properties", "more", "word"),
    [
        ({"a": {"type": "string", "pattern": "x+"}}, {}, "'pattern' of the property 'a'"),
        ({"a": {"type": "string", "format": "date"}}, {}, "'format' of the property 'a'"),
        ({"a": {"anyOf": [{"type": "string"}, {"type": "object"}]}}, {}, "'a'"),
        ({"a": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]}}, {}, "'a'"),
        ({"a": {"enum": ["1", 2]}}, {}, "'1'"),
        ({"a": {"enum": ["</parameter></arg_value>"]}}, {}, "'a'"),
        ({"a<b": {"type": "string"}}, {}, "'a<b'"),
        ({"a": {}}, {"anyOf": [{}]}, "'anyOf'"),
        ({"a": {}}, {"required": ["b"]}, "'b'"),
        ({"a": False}, {}, "'a'"),
    ],
)
@pytest.mark.parametrize(("form", "template"), ELEMENTS[:2])
async def test_a_schema_that_elements_cannot_be_held_to_is_refused_by_name(
    tokenizer: HuggingFaceTokenizer, form: str, template: str, properties: Any, more: Any, word: str
) -> None:
    parameters = {"type": "object", "properties": properties, **more}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"model": "mock", "messages": [{"role": "user", "content": "1"}], "tools": [tool], "tool_choice": "required"}
    async with client_of(engine_of(tokenizer, form, template)) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("form", ["pythonic", "granite"])
async def test_strict_calls_that_no_grammar_holds_are_refused_where_they_are_chosen(
    tokenizer: HuggingFaceTokenizer, form: str
) -> None:
    body = {
        "model": "mock",
        "messages": [{"role": "user", "content": "1"}],
        "tools": [function("now", {}, strict=True)],
    }
    async with client_of(engine_of(tokenizer, form, "")) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "strict" in response.json()["error"]["message"]
