"""Checks of the form of answers against OpenAI's schema, and of the token counts of chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from launcher.core.types import Json, Severity
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Doubt, Failure, Family, expect, usage_of
from launcher.validate.routes import CHAT, Route, on_both

OBJECTS = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat.completion"}
COUNTED = 5


async def schema(context: CheckContext, route: Route) -> str:
    """Fields that OpenAI's clients require must be there, with the right type."""
    body = await route.ask(context, context.settings.prompt, max_tokens=3)
    problems = list(_problems(body, OBJECTS[route.path]))
    if problems:
        raise Failure("; ".join(problems))
    return "every field that OpenAI's clients require"


def _problems(body: Mapping[str, Json], kind: str) -> Iterator[str]:
    for name, wanted in (("id", str), ("object", str), ("created", int), ("model", str), ("usage", Mapping)):
        if not isinstance(body.get(name), wanted) or body[name] == "":
            yield f"'{name}' is {body.get(name)!r}, expected {_named(wanted)}"
    if isinstance(body.get("object"), str) and body["object"] != kind:
        yield f"'object' is {body['object']!r}, expected {kind!r}"
    for choice in body["choices"]:
        if "finish_reason" not in choice:
            yield "a choice has no 'finish_reason'"
        if not isinstance(choice.get("text", choice.get("message", {}).get("content")), str):
            yield "a choice has no text"


def _named(kind: type) -> str:
    return {str: "a string", int: "an integer"}.get(kind, "an object")


async def chat_tokens(context: CheckContext) -> str:
    """The usage of a chat must add up, and agree with its limit."""
    body = await CHAT.ask(context, context.settings.prompt, max_tokens=COUNTED)
    if body.get("usage") is None:
        raise Doubt("the answer of a chat has no usage")
    usage, finish = usage_of(body), body["choices"][0].get("finish_reason")
    expect("usage.total_tokens", usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
    if finish == "length":
        expect("usage.completion_tokens with finish_reason length", usage["completion_tokens"], COUNTED)
    if usage["completion_tokens"] > COUNTED:
        raise Failure(f"max_tokens={COUNTED} gave usage.completion_tokens {usage['completion_tokens']}")
    longer = usage_of(await CHAT.ask(context, context.settings.prompt * 2, max_tokens=1))
    if longer["prompt_tokens"] <= usage["prompt_tokens"]:
        raise Failure(
            f"usage.prompt_tokens is {usage['prompt_tokens']} for a text, {longer['prompt_tokens']} for twice the text"
        )
    return f"{usage['prompt_tokens']} prompt + {usage['completion_tokens']} generated tokens"


CHECKS = (
    *on_both(
        "schema",
        "schema",
        schema,
        Family.schema,
        "`id`, `object`, `created`, `model`, `choices` and `usage` as in OpenAI's schema",
        "none here; other clients of the server may fail",
        "nothing, or another server",
        Severity.warning,
    ),
    CheckDefinition(
        "chat_tokens",
        "chat token accounting",
        Capability.chat,
        chat_tokens,
        Family.tokens,
        expected="`usage` of a chat adds up, follows `max_tokens`, and grows with the prompt",
        effect="token figures, budgets and the search for truncated answers are wrong",
        remedy="a server that counts tokens; budgets by requests",
        after="chat",
    ),
)
