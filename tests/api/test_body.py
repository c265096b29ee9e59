from __future__ import annotations

import gzip
import json

import pytest

from launcher.api.body import parse
from launcher.api.extra_fields import SAMPLED
from launcher.api.request_schema import ChatRequest, CompletionRequest
from launcher.asgi.errors import ApiError
from tests.api.runners import Scripted, client_of, said

GOOD = {"model": "m", "prompt": "p"}
ASK = {"model": "scripted", "prompt": "p", "max_tokens": 4}
DATA = json.dumps(ASK).encode()
PAGE = {"Origin": "http://localhost:3000"}


def completion(**fields: object) -> CompletionRequest:
    return parse(json.dumps(GOOD | fields).encode(), CompletionRequest)


def chat(*messages: object, **fields: object) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": messages} | fields).encode(), ChatRequest)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_a_prompt_comes_in_four_forms(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompt == prompts


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"max_tokens": "16"}, "max_tokens", ["integer", "'16'"]),
        ({"max_tokens": 1.5}, "max_tokens", ["integer", "1.5"]),
        ({"max_tokens": True}, "max_tokens", ["integer"]),
        ({"max_tokens": -1}, "max_tokens", [">= 0", "-1"]),
        ({"temperature": "0"}, "temperature", ["decimal", "'0'"]),
        ({"temperature": 2.1}, "temperature", ["2", "2.1"]),
        ({"temperature": -0.1}, "temperature", ["0", "-0.1"]),
        ({"top_p": 1.1}, "top_p", ["1"]),
        ({"top_k": -2}, "top_k", ["-1"]),
        ({"n": 0}, "n", ["1"]),
        ({"n": 129}, "n", ["128"]),
        ({"seed": 1.5}, "seed", ["integer"]),
        ({"seed": 2**70}, "seed", ["maximum"]),
        ({"stop": ""}, "stop", ["not empty"]),
        ({"stop": ["a", ""]}, "stop", ["not empty"]),
        ({"stop": [1]}, "stop", ["strings"]),
        ({"stop": ["x"] * 65}, "stop", ["65", "64"]),
        ({"logprobs": True}, "logprobs", ["integer"]),
        ({"logprobs": 21}, "logprobs", ["20"]),
        ({"echo": 1}, "echo", ["boolean"]),
        ({"presence_penalty": 3}, "presence_penalty", ["2"]),
        ({"logit_bias": {"a": 1}}, "logit_bias", ["'a'", "token id"]),
        ({"logit_bias": {"5": 101}}, "logit_bias", ["101", "-100 to 100"]),
        ({"logit_bias": {"5": True}}, "logit_bias", ["True"]),
        ({"logit_bias": [1]}, "logit_bias", ["object"]),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", ["boolean"]),
        ({"stream_options": {"usage": True}}, "stream_options.usage", ["Unknown"]),
        ({"prompt": []}, "prompt", ["list of strings"]),
        ({"prompt": ["a", [1]]}, "prompt", ["list of strings"]),
        ({"prompt": [1.0]}, "prompt", ["token ids"]),
        ({"prompt": [True]}, "prompt", ["token ids"]),
        ({"prompt": [[]]}, "prompt", ["token ids"]),
        ({"prompt": {"text": "a"}}, "prompt", ["a string"]),
        ({"prompt": None}, "prompt", ["Missing required"]),
        ({"model": None}, "model", ["Missing required"]),
        ({"model": 5}, "model", ["string"]),
        ({"suffix": "x"}, "suffix", ["not supported"]),
        ({"tools": [1]}, "tools", ["not supported"]),
        ({"maxtokens": 5}, "maxtokens", ["Unknown parameter", "Did you mean 'max_tokens'"]),
        ({"best_of": 0}, "best_of", ["1"]),
        ({"zzzz": 5}, "zzzz", ["Unknown parameter", "max_tokens", "prompt"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_is_accepted(fields: dict[str, object], param: str, words: list[str]) -> None:
    with pytest.raises(ApiError) as raised:
        completion(**fields)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert "\n" not in str(raised.value)
    assert param in str(raised.value)
    assert all(word in str(raised.value) for word in words), str(raised.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b'"x"', b"\xff", b"null", b'{"a": NaN}',
     b'{"model": "m", "prompt": "x", "temperature": Infinity}',
     b'{"model": "\\ud800", "prompt": "x"}', b'{"model": "m", "prompt": "x", "temperature": 1e999}'],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        parse(data, CompletionRequest)
    assert raised.value.status == 400


def test_null_means_absent() -> None:
    nothing = dict.fromkeys(set(CompletionRequest.model_fields) - {"model", "prompt"})
    assert completion(**nothing, tools=None, suffix=None) == completion()


def test_fields_that_cannot_change_an_answer_are_ignored() -> None:
    assert completion(**dict.fromkeys(SAMPLED.ignored, "anything")) == completion()


def test_values_that_ask_for_nothing_are_accepted() -> None:
    assert chat(USER, response_format={"type": "text"}, functions=[], min_p=0, modalities=["text"]) == chat(USER)


def test_a_long_wrong_value_is_not_quoted() -> None:
    with pytest.raises(ApiError) as raised:
        chat({"role": "secret " * 100, "content": "x"})
    assert "secret" not in str(raised.value)


USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        (USER, USER),
        (USER | {"type": "text"}, USER),
        (USER | {"name": "Ann"}, USER | {"name": "Ann"}),
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        ({"role": "assistant", "content": "x", "tool_calls": None, "refusal": None, "audio": None},
         {"role": "assistant", "content": "x"}),
        ({"role": "assistant", "content": "x", "tool_calls": [], "annotations": [], "cache_control": {"type": "e"}},
         {"role": "assistant", "content": "x"}),
        ({"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}, "annotations": []}]},
         {"role": "user", "content": [{"type": "text", "text": "a"}]}),
    ],
)  # fmt: skip
def test_messages_become_what_templates_read(message: dict[str, object], plain: dict[str, str]) -> None:
    assert chat(message).messages[0].plain() == plain


@pytest.mark.parametrize(
    ("message", "param", "word"),
    [
        ({"role": "tool", "content": "x"}, "messages[0]", "tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, "messages[0]", "tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0]", "'assistant'"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content", "Missing required"),
        ({"role": "user"}, "messages[0].content", "Missing required"),
        ({"role": "user", "content": None}, "messages[0].content", "Missing required"),
        ({"role": "user", "content": 5}, "messages[0].content", "string"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content",
            "image_url",
        ),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[0].content", "part 0"),
        ({"role": "assistant", "content": "x", "tool_calls": [1]}, "messages[0].tool_calls[0]", "an object"),
        ({"role": "assistant", "content": "x", "tools": []}, "messages[0].tools", "Unknown"),
        ("hello", "messages[0]", "object"),
    ],
)
def test_a_message_that_cannot_be_rendered_is_refused(message: object, param: str, word: str) -> None:
    with pytest.raises(ApiError) as raised:
        chat(message)
    assert raised.value.param == param
    assert word in str(raised.value)


def test_a_chat_needs_messages() -> None:
    with pytest.raises(ApiError, match="messages"):
        chat()


@pytest.mark.parametrize("name", ["functions", "function_call", "audio", "reasoning_effort"])
def test_unsupported_chat_fields_are_named(name: str) -> None:
    with pytest.raises(ApiError, match="not supported") as raised:
        chat(USER, **{name: {"type": "json_object"}})
    assert (raised.value.param, raised.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("headers", "data", "code"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(DATA, mtime=0), "unsupported_content_encoding"),
        ({"Content-Encoding": "br"}, DATA, "unsupported_content_encoding"),
        ({"Content-Encoding": "identity, gzip"}, DATA, "unsupported_content_encoding"),
        ({"Content-Encoding": "x" * 5000}, DATA, "unsupported_content_encoding"),
        ({"Content-Type": "text/plain"}, DATA, "unsupported_content_type"),
        (PAGE | {"Content-Type": "application/x-www-form-urlencoded"}, DATA, "unsupported_content_type"),
        (PAGE, DATA, "unsupported_content_type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, DATA, "unsupported_content_type"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
async def test_a_body_in_another_form_is_a_415_that_says_which(
    headers: dict[str, str], data: bytes, code: str, path: str
) -> None:
    async with client_of(Scripted([said("a", "length")])) as client:
        answer = await client.post(path, content=data, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, code)
    assert len(answer.text) < 500


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "application/x-www-form-urlencoded"},
     {"Content-Type": "application/json; charset=utf-8"}, {"Content-Type": "application/vnd.api+json"},
     {"Content-Encoding": "identity", "Content-Type": "APPLICATION/JSON"}],
)  # fmt: skip
async def test_json_by_any_of_its_names_is_read(headers: dict[str, str]) -> None:
    async with client_of(Scripted([said("a", "length")])) as client:
        assert (await client.post("/v1/completions", content=DATA, headers=headers)).status_code == 200
