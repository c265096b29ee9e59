"""Schemas and grammars that lead to themselves without end are found before anything is generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from launcher.api.endless import endless_reference
from launcher.checkpoints.tokenizers.chat_template import StoredTemplate
from launcher.checkpoints.tokenizers.templated import Names
from tests.api.runners import client_of
from tests.api.tool_calls.test_grammar import engine_of, tokenizer
from tests.api.tool_model import function
from tests.validate.mock import MockEngine

__all__ = ["tokenizer"]
A, B = {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}
NULL = {"type": "null"}


def held(kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"t": A}, "required": ["t"], "$defs": {"a": kind, **more}}


ENDLESS = [
    held(A), held(B, b=A), held({"allOf": [A]}), held({"anyOf": [A, B]}, b=A), held({"$ref": "#/properties/t"}),
    {"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    held({"type": "object", "properties": {"t": A}, "required": ["t"]}),
    held({"type": "array", "prefixItems": [NULL, A], "minItems": 2}),
    held({"type": "object", "additionalProperties": A, "required": ["q"]}),
    {"$id": "http://z/", **held({"$ref": "http://z/#/$defs/a"})},
    {"$anchor": "x", "type": "object", "properties": {"t": {"$ref": "#x"}}, "required": ["t"]},
]  # fmt: skip
ENDING = [
    held({"type": "object", "properties": {"t": A}}), held({"anyOf": [A, NULL]}),
    {"type": "array", "items": {"$ref": "#"}},
    held({"type": ["object", "null"], "properties": {"t": A}, "required": ["t"]}), held(B, b={"type": "integer"}),
    held({"type": "object", "properties": {"l": {"anyOf": [A, NULL]}, "r": {"type": "array", "items": A}},
          "required": ["l", "r"]}),
    {"type": "object", "$defs": {"a": A}},
    held({"type": "array", "prefixItems": [A], "items": False}),
]  # fmt: skip


@pytest.mark.parametrize("schema", ENDLESS)
def test_a_reference_without_end_is_found(schema: dict[str, Any]) -> None:
    assert endless_reference(schema)


@pytest.mark.parametrize("schema", ENDING)
def test_a_recursion_that_can_end_is_none(schema: dict[str, Any]) -> None:
    assert endless_reference(schema) is None


@pytest.mark.parametrize("tokenizer", ["text"], indirect=True)
async def test_a_request_is_refused_before_anything_is_generated(tokenizer: Any) -> None:
    tree = held({"type": "object", "properties": {"t": A}})
    async with client_of(engine_of(tokenizer, "hermes", "")) as client:
        for schema in ENDLESS:
            calls = {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
            form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
            await refused(client, response_format=form)
            await refused(client, response_format=form, stream=True)
            if schema.get("type") == "object":
                await refused(client, **calls, tool_choice="required")
                await refused(client, **calls, tool_choice={"type": "function", "function": {"name": "f"}})
        for grammar in ("start: start", 'start: a\na: a "x"'):
            await refused(client, structured_outputs={"grammar": grammar})
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": tree}}
        assert (await chat(client, response_format=form)).status_code == 200


async def chat(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    body = {"model": "mock", "messages": [{"role": "user", "content": "1+2="}], "max_tokens": 20}
    return await client.post("/v1/chat/completions", json=body | more)


async def refused(client: httpx.AsyncClient, **more: Any) -> None:
    response = await chat(client, **more)
    assert response.status_code == 400, response.text
    assert "leads to itself without end" in response.json()["error"]["message"]


@pytest.mark.parametrize("tokenizer", ["text"], indirect=True)
async def test_what_is_not_supported_is_named_in_terms_of_the_schema(tokenizer: Any) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf is supported only where"),
        ({"type": "array", "uniqueItems": True}, "not supported: uniqueItems"),
    ]
    async with client_of(engine_of(tokenizer, "hermes", "")) as client:
        for schema, word in cases:
            form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
            response = await chat(client, response_format=form)
            assert response.status_code == 400
            assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("tokenizer", ["text"], indirect=True)
async def test_a_template_without_tools_is_named_without_its_folder_or_a_setting(tokenizer: Any) -> None:
    stored = StoredTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", Path("/srv/models/template.jinja"))
    tokenizer._names = Names(tokenizer._names.roles, stored)
    async with client_of(MockEngine(tokenizer)) as client:
        response = await chat(client, tools=[function("f", {})])
    said = response.json()["error"]["message"]
    assert response.status_code == 400
    assert said.startswith("template.jinja: the chat template leaves out tools")
    assert "tool_call_parser" not in said
