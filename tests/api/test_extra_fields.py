from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionStreamOptionsParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)

from launcher.api.body import parse
from launcher.api.extra_fields import MESSAGE, PART, SAMPLED, STREAM_OPTIONS, Fields, same
from launcher.api.request_schema import Body, ChatRequest, CompletionRequest, Message, StreamOptions
from launcher.asgi.errors import ApiError
from tests.fuzzing import examples

API = Path(__file__).parents[2] / "docs" / "api.md"
GOOD: dict[type[Body], dict[str, object]] = {
    CompletionRequest: {"model": "m", "prompt": "p"},
    ChatRequest: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}
GUIDELLM = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "ignore_eos": True,
}
"""What guidellm's OpenAI backend sends by default, beside the prompt and the limit."""


def given_with(schema: type[Body], /, **fields: object) -> Body:
    return parse(json.dumps(GOOD[schema] | fields).encode(), schema)


@pytest.mark.parametrize(
    ("typed", "schema", "fields"),
    [
        (completion_create_params.CompletionCreateParamsBase, CompletionRequest, SAMPLED),
        (completion_create_params.CompletionCreateParamsStreaming, CompletionRequest, SAMPLED),
        (chat_create_params.CompletionCreateParamsBase, ChatRequest, SAMPLED),
        (chat_create_params.CompletionCreateParamsStreaming, ChatRequest, SAMPLED),
        (ChatCompletionStreamOptionsParam, StreamOptions, STREAM_OPTIONS),
        (ChatCompletionAssistantMessageParam, Message, MESSAGE),
    ],
)
def test_each_field_of_openais_package_is_known(typed: type, schema: type[Body], fields: Fields) -> None:
    known = schema.model_fields.keys() | fields.neutral.keys() | fields.ignored
    assert get_type_hints(typed).keys() <= known


def test_each_field_of_a_text_part_is_known() -> None:
    assert (
        get_type_hints(ChatCompletionContentPartTextParam).keys()
        <= {"type", "text"} | PART.ignored | PART.neutral.keys()
    )


@pytest.mark.parametrize("schema", GOOD)
@pytest.mark.parametrize("name", sorted(SAMPLED.neutral))
def test_a_field_that_asks_for_nothing_changes_nothing(schema: type[Body], name: str) -> None:
    if name in schema.model_fields:
        return
    for value in (None, *SAMPLED.neutral[name]):
        assert given_with(schema, **{name: value}) == given_with(schema)


@pytest.mark.parametrize("schema", GOOD)
@pytest.mark.parametrize("name", sorted(SAMPLED.neutral))
def test_a_field_that_asks_for_more_is_refused(schema: type[Body], name: str) -> None:
    if name in schema.model_fields:
        return
    with pytest.raises(ApiError, match="Unsupported parameter") as raised:
        given_with(schema, **{name: {"some": ["thing", 7]}})
    assert (raised.value.param, raised.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("schema", GOOD)
def test_guidellms_default_settings_are_accepted(schema: type[Body]) -> None:
    body = given_with(schema, **GUIDELLM)
    assert isinstance(body, CompletionRequest | ChatRequest)
    assert (body.include_usage, body.continuous_usage) == (True, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "best_of": 1, "logit_bias": {}, "stop": [], "stop_token_ids": [], "top_k": -1},
        {"response_format": {"type": "text", "json_schema": None}, "tools": [], "tool_choice": "auto"},
        {"parallel_tool_calls": True, "store": False, "service_tier": "auto", "metadata": {}, "safety_identifier": "u"},
        {"skip_special_tokens": True, "min_p": 0.0, "repetition_penalty": 1.0, "use_beam_search": False},
        {"stream_options": {}},
        {"stream_options": {"include_obfuscation": False, "include_usage": None}},
        {"top_logprobs": 0},
    ],
)
@pytest.mark.parametrize("schema", GOOD)
def test_what_clients_send_by_default_is_accepted(schema: type[Body], fields: dict[str, object]) -> None:
    asked = given_with(schema, **fields).model_dump(exclude={"stream_options", "best_of", "top_k", "top_logprobs"})
    assert asked.items() <= given_with(schema).model_dump().items()


WRONG = {
    "zzz": 1, "tools": [1], "temperature": 3, "n": "1", "stop": "", "suffix": "x", "aaa": 1, "min_p": 0.5, "top_k": -5,
    "functions": [{}], "guided_json": {}, "web_search_options": {}, "best_of": 0,
}  # fmt: skip


@settings(max_examples=examples(30), deadline=None)
@given(names=st.sets(st.sampled_from(sorted(WRONG)), min_size=2), order=st.randoms(use_true_random=False))
def test_of_several_mistakes_it_is_always_the_same_that_is_told(names: set[str], order) -> None:
    told = set()
    for _ in range(3):
        found = sorted(names | GOOD[ChatRequest].keys())
        order.shuffle(found)
        with pytest.raises(ApiError) as raised:
            parse(json.dumps({name: (WRONG | GOOD[ChatRequest])[name] for name in found}).encode(), ChatRequest)
        told.add((raised.value.param, str(raised.value)))
    assert len(told) == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=500),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=300), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=examples(50), deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted({*ChatRequest.model_fields, *SAMPLED.neutral})) | st.text(), JSON))
def test_whatever_is_asked_it_is_planned_or_refused_in_openais_shape(fields: dict[str, object]) -> None:
    with suppress(ApiError):
        assert isinstance(given_with(ChatRequest, **fields), ChatRequest)


LONG = "x" * 10**6
MANY = ["m"] * 10**5


def says(content: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content} | more]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": MANY}, {LONG: 1}, {"logit_bias": {LONG: 1}}, {"logit_bias": {"1": 10**4000}}, {"temperature": LONG},
        {"seed": 10**4000}, {"stop": [LONG] * 65}, {"messages": [5] * 10**5}, says("x", role=LONG),
        says("x", **{LONG: 1}), says([{"type": LONG}]), says([{"type": MANY}]),
    ],
)  # fmt: skip
def test_an_error_quotes_at_most_200_characters(wrong: dict[str, object]) -> None:
    with pytest.raises(ApiError) as raised:
        given_with(ChatRequest, **wrong)
    told = raised.value.body()["error"]
    assert not re.search(r"(.)\1{200}", told["message"].replace(" ", ""))
    assert len(told["message"]) < 1000
    assert len(told["param"]) <= 200


def test_true_is_not_one_and_null_is_absent() -> None:
    assert not same(True, 1)
    assert same({"type": "text", "strict": None}, {"type": "text"})
    assert same([1, {"a": 1.0}], [1.0, {"a": 1}])
    assert not same([1], [1, 2])


def table() -> Mapping[str, str]:
    """Return the rows of the table of fields in docs/api.md: a name and what is said of it."""
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", API.read_text(), re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_page_says_what_becomes_of_each_field() -> None:
    said = table()
    for name in CompletionRequest.model_fields.keys() | ChatRequest.model_fields.keys():
        assert said[name].startswith("supported"), name
    for name in SAMPLED.ignored:
        assert said[name].startswith("ignored"), name
    for name in SAMPLED.neutral.keys() - CompletionRequest.model_fields.keys() - ChatRequest.model_fields.keys():
        values = [json.dumps(value) for value in SAMPLED.neutral[name]]
        assert said[name] == f"refused{' except ' + ', '.join(f'`{v}`' for v in values) if values else ''}", name
