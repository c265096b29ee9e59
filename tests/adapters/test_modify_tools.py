from __future__ import annotations

import copy

import pytest

from launcher.adapters.modify_tools import ModifyTools
from launcher.core.errors import AdapterError, UserError


def tool(name, **properties):
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


async def sent(adapter, server, chat, **body):
    upstream = server()
    await adapter(chat({"role": "user", "content": "x"}, **body), upstream)
    return upstream.asked[0].body


@pytest.mark.parametrize(
    ("settings", "names"), [({"keep": ["a"]}, ["a"]), ({"remove": ["a"]}, ["b"]), ({"keep": ["a", "c"]}, ["a"])]
)
async def test_tools_are_chosen_by_name(server, chat, settings, names):
    body = await sent(ModifyTools(**settings), server, chat, tools=[tool("a"), tool("b")])
    assert [t["function"]["name"] for t in body["tools"]] == names


async def test_a_request_without_its_last_tool_has_no_choice_of_tools(server, chat):
    body = await sent(ModifyTools(remove=["a"]), server, chat, tools=[tool("a")], tool_choice="auto", seed=1)
    assert body.keys() == {"messages", "seed"}


async def test_keys_of_schemas_are_removed_and_arguments_stay(server, chat):
    inner = {"type": "object", "additionalProperties": True, "enum": [{"additionalProperties": 1}]}
    given = tool("a", additionalProperties=inner)
    before = copy.deepcopy(given)
    body = await sent(ModifyTools(remove_keys=["additionalProperties"], strict=True), server, chat, tools=[given])
    function = body["tools"][0]["function"]
    kept = {"type": "object", "enum": [{"additionalProperties": 1}]}
    assert function["parameters"] == {"type": "object", "properties": {"additionalProperties": kept}}
    assert function["strict"] is True
    assert given == before


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "a"}}])
async def test_a_choice_of_a_removed_tool_is_refused(server, chat, choice):
    with pytest.raises(AdapterError, match="modify_tools"):
        await sent(ModifyTools(remove=["a"]), server, chat, tools=[tool("a")], tool_choice=choice)


@pytest.mark.parametrize("tools", ["x", [{"type": "function"}], [1]])
async def test_other_shapes_are_refused(server, chat, tools):
    with pytest.raises(AdapterError, match="not a list of functions"):
        await sent(ModifyTools(), server, chat, tools=tools)


def test_a_tool_is_named_once():
    with pytest.raises(UserError, match="'a' is in keep and in remove"):
        ModifyTools(keep=["a"], remove=["a"])
