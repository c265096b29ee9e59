"""Answers that match a schema, an expression or a choice, from every backend."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai
import pytest

from launcher.core.types import Endpoint
from tests.api.contract.conftest import SERVERS, Api, Fleet

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "even": {"type": "boolean"}},
    "required": ["sum", "even"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}
CHAT: Any = [{"role": "user", "content": "1+2"}]


@pytest.fixture(params=[name for name in sorted(SERVERS) if not name.endswith("echo")])
def endpoint(request: pytest.FixtureRequest, fleet: Fleet) -> Endpoint:
    """A server with a model."""
    return fleet.get(request.param)


@pytest.fixture
def model(endpoint: Endpoint) -> str:
    return endpoint.model


def is_of_the_schema(text: str) -> bool:
    found = json.loads(text)
    return found.keys() == {"sum", "even"} and 0 <= found["sum"] <= 99 and isinstance(found["even"], bool)


async def test_each_choice_is_json_of_the_schema(sdk: openai.AsyncOpenAI, model: str) -> None:
    answer = await sdk.chat.completions.create(
        model=model, messages=CHAT, max_tokens=200, n=3, seed=1, response_format=FORM
    )
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
    assert all(is_of_the_schema(choice.message.content or "") for choice in answer.choices)


async def test_a_stream_is_held_to_it_too(sdk: openai.AsyncOpenAI, model: str) -> None:
    stream = await sdk.chat.completions.create(
        model=model, messages=CHAT, max_tokens=200, seed=2, response_format=FORM, stream=True
    )
    assert is_of_the_schema("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))


DEAD = [
    ({"grammar": 'start: "1" b\nb: "2" b\n'}, "grammar", "the rule 'b' leads to itself"),
    ({"grammar": 'root ::= "1" b\nb ::= "2" b'}, "grammar", "the rule 'b' leads to itself"),
    ({"grammar": 'start: "1" T\nT: /a/ & /b/\n'}, "grammar", "matches no text"),
    ({"regex": "12[^\\s\\S]"}, "regex", "matches none"),
    ({"regex": "(a{1000}){1000}"}, "regex", "too large"),
    ({"json": {"enum": []}}, "json", "Unsatisfiable"),
]


@pytest.mark.parametrize(("wanted", "kind", "said"), DEAD)
async def test_a_grammar_that_cannot_be_followed_is_the_clients_error(
    api: Api, wanted: dict[str, object], kind: str, said: str
) -> None:
    """A request beside it, in the same batch, has its answer."""
    beside = asyncio.create_task(api.complete(structured_outputs={"regex": "[0-9]{30}"}, max_tokens=40))
    answer = await api.post("/v1/completions", prompt="1+2=", structured_outputs=wanted, max_tokens=20)
    error, param = answer.json()["error"], f"structured_outputs.{kind}"
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]
    assert re.fullmatch("[0-9]{30}", (await beside)["choices"][0]["text"])


async def test_a_stream_ends_with_the_error_of_its_grammar(api: Api) -> None:
    wanted = {"grammar": 'start: "1" "2" "3" T\nT: /a/ & /b/\n'}
    answer = await api.post("/v1/completions", prompt="1+2=", structured_outputs=wanted, stream=True, max_tokens=20)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    error = events[-1]["error"] if answer.status_code == 200 else answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "structured_outputs.grammar")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"regex": "[0-7]{3}x"}, "[0-7]{3}x"),
        ({"choice": ["12", "yes"]}, "12|yes"),
        ({"grammar": 'root ::= "a" | "b" "c"'}, "a|bc"),
        ({"json": {"enum": ["1"]}}, '"1"'),
    ],
)
async def test_a_completion_matches_what_is_asked_for(api: Api, wanted: dict[str, object], expected: str) -> None:
    (choice,) = (await api.complete(structured_outputs=wanted, max_tokens=20))["choices"]
    assert re.fullmatch(expected, choice["text"])
    assert choice["finish_reason"] == "stop"
