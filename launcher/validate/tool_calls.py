"""Checks of tools: that the prompt has them, that calls are valid, whole and streamed, and that results are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.responses import STOPPED, check_stream
from launcher.core.types import Json, Request, Severity
from launcher.validate.check import (
    Capability,
    CheckContext,
    CheckDefinition,
    Doubt,
    Failure,
    Family,
    NotApplicable,
    counts_of,
)
from launcher.validate.routes import CHAT, persistent

USER = {"role": "user", "content": "7+5="}
FEW = 3
"""The least number of tokens of each text that is added."""
ROOM = 120
"""Tokens for one call."""
CUT = "the answer reached its limit within the call"
PROPERTIES: Mapping[str, Json] = {"metric": {"type": "boolean"}, "part": {"type": "string", "enum": ["day", "night"]}}


def _function(name: str, description: str, properties: Mapping[str, Json]) -> dict[str, Json]:
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": [*properties],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


REPORT, TELL = "report_the_weather", "tell_the_time_of_day"
WEATHER = _function(REPORT, "Reports the weather of today.", PROPERTIES)
CLOCK = _function(TELL, "Tells the time of the day.", {})
NAMED = {"type": "function", "function": {"name": REPORT}}


@dataclass(frozen=True)
class Called:
    """The first call of an answer."""

    name: str
    arguments: str
    finish: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.name, self.arguments, self.finish))


async def tools_read(context: CheckContext) -> str:
    """The functions that a request offers must be part of the prompt."""
    without = await _prompt_tokens(context, [USER])
    one = await _prompt_tokens(context, [USER], tools=[WEATHER])
    two = await _prompt_tokens(context, [USER], tools=[WEATHER, CLOCK])
    if one < without + FEW:
        raise _wrong(context, f"a function adds {one - without} prompt tokens: the model does not see it")
    if two < one + FEW:
        raise _wrong(context, f"a second function adds {two - one} prompt tokens: the model does not see it")
    return f"two functions add {two - without} prompt tokens"


async def results_read(context: CheckContext) -> str:
    """Earlier calls and their results must be part of the prompt."""
    counts = [
        await _prompt_tokens(context, [USER, *_turn(arguments, result)], tools=[WEATHER, CLOCK])
        for arguments, result in (("{}", "12"), ("{}", LONG), (json.dumps({"part": LONG}), "12"))
    ]
    short, result, arguments = counts
    if result < short + FEW:
        raise _wrong(context, f"{len(LONG.split())} more words of a result add {result - short} prompt tokens")
    if arguments < short + FEW:
        raise _wrong(context, f"{len(LONG.split())} words of an earlier call add {arguments - short} prompt tokens")
    return f"{len(LONG.split())} words add {result - short} prompt tokens to a result, {arguments - short} to a call"


LONG = "It is warm and dry, and the wind blows from the west."


def _turn(arguments: str, result: str) -> list[Json]:
    function = {"name": TELL, "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    return [said, {"role": "tool", "tool_call_id": "call00001", "content": result}]


async def call_valid(context: CheckContext) -> str:
    """A call that the request forces must be there, and valid by the schema of its function."""
    found = await _forced(context, tool_choice=NAMED)
    if found.name != REPORT:
        raise _wrong(context, f"tool_choice names {REPORT!r}, and {found.name!r} was called")
    if complaint := _complaint(found):
        raise _wrong(context, complaint)
    other = await _forced(context, tool_choice="required")
    if other.name not in (REPORT, TELL):
        raise _wrong(context, f"tool_choice='required' called {other.name!r}, which the request does not offer")
    if complaint := _complaint(other):
        raise _wrong(context, complaint)
    return f"called {found.name} with {found.arguments}"


async def call_streamed(context: CheckContext) -> str:
    """The pieces of a streamed call must form the whole call, its id and name first."""

    async def attempt() -> str:
        whole = await _forced(context, tool_choice=NAMED)
        events = await _events(context)
        if (fault := check_stream(events)) is not None:
            raise _wrong(context, f"the stream: {fault}")
        pieces = list(_pieces(events))
        if not pieces:
            raise _wrong(context, "the stream has no tool_calls, the whole answer has one")
        if not pieces[0].get("id") or not (pieces[0].get("function") or {}).get("name"):
            raise _wrong(context, f"the first piece of a streamed call is {pieces[0]!r}, without its id or name")
        _compare(context, whole, _joined(pieces, events))
        return f"{len(pieces)} pieces form the call"

    return await persistent(attempt)


def _compare(context: CheckContext, whole: Called, streamed: Called) -> None:
    for what, one, other in zip(("name", "arguments", "finish_reason"), whole, streamed, strict=True):
        if one != other:
            raise _wrong(context, f"the {what} of a call is {other!r} as a stream, {one!r} as a whole")


async def _forced(context: CheckContext, **asked: Json) -> Called:
    asked = {"tools": [WEATHER, CLOCK], "max_tokens": ROOM, "parallel_tool_calls": False, **asked}
    try:
        body = await CHAT.ask(context, USER["content"], **asked)
    except Failure as failure:
        if failure.refused:
            raise NotApplicable(f"the server forces no calls: {failure}") from None
        raise
    choice = body["choices"][0]
    calls, finish = choice["message"].get("tool_calls"), choice.get("finish_reason")
    if finish == "length":
        raise NotApplicable(f"{CUT} of {ROOM} tokens")
    if not calls:
        raise _wrong(context, f"tool_choice={asked['tool_choice']!r} gave no call, but {choice['message']!r}")
    if finish not in ("tool_calls", *STOPPED):
        raise _wrong(context, f"finish_reason of a call is {finish!r}, expected 'tool_calls'")
    if calls[0].get("type") != "function" or not calls[0].get("id"):
        raise _wrong(context, f"a call is {calls[0]!r}, without type 'function' or an id")
    return Called(calls[0]["function"]["name"], calls[0]["function"]["arguments"], finish)


def _complaint(call: Called) -> str | None:
    """Return why the arguments are not as the schema wants them."""
    try:
        found = json.loads(call.arguments)
    except (ValueError, TypeError):
        return f"the arguments of {call.name} are {call.arguments!r}, which is no JSON as a text"
    if not isinstance(found, dict):
        return f"the arguments of {call.name} are {call.arguments!r}, expected an object"
    expected = set(PROPERTIES) if call.name == REPORT else set()
    if found.keys() != expected:
        return f"{call.name} was called with {sorted(found)}, expected {sorted(expected)}"
    if expected and (not isinstance(found["metric"], bool) or found["part"] not in PROPERTIES["part"]["enum"]):
        return f"{call.name} was called with {call.arguments}, which its schema does not allow"
    return None


async def _events(context: CheckContext) -> Sequence[Json]:
    asked = {"tools": [WEATHER, CLOCK], "tool_choice": NAMED, "max_tokens": ROOM, "parallel_tool_calls": False}
    request = Request(
        CHAT.path, {"model": context.endpoint.model, **CHAT.body(USER["content"], **asked), "stream": True}
    )
    exchange, response = await context.ask(request)
    if not response.ok or response.events is None:
        raise Failure(f"stream=true with tools answered HTTP {response.status} without events", exchange)
    return exchange.events


def _pieces(events: Sequence[Json]) -> Iterator[Json]:
    """Yield the pieces of the first call."""
    for event in events:
        for choice in event["choices"]:
            calls = (choice.get("delta") or {}).get("tool_calls") or ()
            yield from (call for call in calls if call.get("index") == 0)


def _joined(pieces: Sequence[Json], events: Sequence[Json]) -> Called:
    functions = [piece.get("function") or {} for piece in pieces]
    name = "".join(function.get("name") or "" for function in functions)
    arguments = "".join(function.get("arguments") or "" for function in functions)
    finishes = [c.get("finish_reason") for event in events for c in event["choices"] if c.get("finish_reason")]
    return Called(name, arguments, finishes[-1] if finishes else "")


async def _prompt_tokens(context: CheckContext, messages: Sequence[Json], **more: Json) -> int:
    """Count the tokens of a prompt; a server that refuses tools lacks them rightly, unless a task sends some."""
    try:
        body = await CHAT.ask(context, "", messages=list(messages), max_tokens=1, **more)
    except Failure as failure:
        if failure.refused and not _is_sent(context):
            raise NotApplicable(f"the server refuses tools: {failure}") from None
        raise
    return counts_of(body)["prompt_tokens"]


def _is_sent(context: CheckContext) -> bool:
    """Return whether a task sends tools, rather than that everything is checked."""
    return Capability.tools in context.needed and context.needed != frozenset(Capability)


def _wrong(context: CheckContext, message: str) -> Failure:
    """Return a failure; one that only warns where no task is known to send tools."""
    return Failure(message) if _is_sent(context) else Doubt(message)


def _check(
    id: str, name: str, procedure: Any, expected: str, effect: str, after: str, base: bool = False
) -> CheckDefinition:
    return CheckDefinition(
        id, name, Capability.tools, procedure, Family.tools, expected, effect,
        "model.tool_call_parser, or the parser and chat template of another server; tasks without tools",
        Severity.fatal, after=after, base=base,
    )  # fmt: skip


CHECKS = (
    _check(
        "tools_read", "tools read", tools_read,
        "the functions that a request offers are part of the prompt",
        "the model answers without knowing its tools: tasks of calls score near 0", "chat", base=True,
    ),
    _check(
        "tool_results_read", "tool results read", results_read,
        "earlier calls and their results are part of the prompt",
        "an agent does not see what its tools returned", "tools_read",
    ),
    _check(
        "tool_call_valid", "tool call valid", call_valid,
        "a forced call is there, and its arguments are valid by the schema",
        "calls are lost in the text, or cannot be carried out", "tools_read",
    ),
    _check(
        "tool_call_streamed", "tool call streamed", call_streamed,
        "the pieces of a streamed call form the whole call, its id and name first",
        "clients that stream get other calls than those that do not", "tool_call_valid",
    ),
)  # fmt: skip
