"""The form in which a chat template reads tools, earlier calls of them, and their results, found by trying."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from launcher.core.tokenizer import Message, text_of
from launcher.core.types import Json

NAME, VALUE, RESULT, OTHER = "probe_7304", "Value 7305", "Result 7306", "probe_7309"
"""What a probe's tool is called, what it is called with, and what it returns; and a tool that is not offered."""
ID = "call07307"
"""Mistral's templates refuse ids of calls that have another length."""
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
USER = {"role": "user", "content": "Text 7308"}
WRONG = ("{'", '{\\"', "None")
"""An object that was written as Python's, JSON that was written as a text, and a missing content that was written."""


@dataclass(frozen=True)
class ToolForms:
    """What a template reads: ``tools``, ``calls``, ``results``.

    ``text_arguments``: arguments are JSON as a text. ``empty`` is the content of a message that has calls only.
    ``result_parts``: the content of a result is a list of parts. ``only_ids``: calls have ids, and no names there.
    """

    tools: bool = False
    calls: bool = False
    results: bool = False
    text_arguments: bool = False
    empty: str | None = ""
    result_parts: bool = False
    only_ids: bool = False

    def named(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return messages whose calls have the names of their functions in their ids, if no other place has them."""
        return [*_with_names(messages)] if self.only_ids else messages

    def filled(self, message: Message) -> Message:
        """Return a message with the content and arguments that the template reads."""
        if message["role"] == "tool" and self.result_parts:
            return {**message, "content": _parts(message["content"])}
        calls = message.get("tool_calls")
        if not calls:
            return message
        content = message["content"] or self.empty
        return {**message, "content": content, "tool_calls": [self._call(call) for call in calls]}

    def _call(self, call: Mapping[str, Json]) -> Json:
        arguments = call["function"]["arguments"]
        text = json.dumps(arguments, ensure_ascii=False) if self.text_arguments else arguments
        return {**call, "function": {**call["function"], "arguments": text}}

    def lost(self, messages: Sequence[Message], tools: Sequence[Json]) -> str | None:
        """Return what the template leaves out of a chat; None if it leaves out nothing."""
        return next(self._lost(messages, tools), None)

    def _lost(self, messages: Sequence[Message], tools: Sequence[Json]) -> Iterator[str]:
        if tools and not self.tools:
            yield "tools, so that the model would not know them"
        if not self.calls and any(message.get("tool_calls") for message in messages):
            yield "the tool calls of earlier messages"
        if not self.results and any(message["role"] == "tool" for message in messages):
            yield "messages of role 'tool'"


Render = Callable[[Sequence[Message], Sequence[Json], ToolForms], str | None]
"""Renders messages with tools in a form; None where the template refuses."""


def uses_tools(messages: Sequence[Message], tools: Sequence[Json]) -> bool:
    return bool(tools) or any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def probed(render: Render) -> ToolForms:
    """Try the forms, the usual ones first."""
    usual = ToolForms()
    plain, with_tools = render([USER], (), usual), render([USER], [TOOL], usual)
    tools = with_tools is not None and NAME in with_tools and NAME not in (plain or "")
    offered = [TOOL] if tools else []
    for result_parts, empty, text_arguments in product((False, True), ("", None), (False, True)):
        forms = ToolForms(tools, True, True, text_arguments, empty, result_parts)
        if _reads(forms, render, offered, with_tools if tools else plain):
            return replace(forms, only_ids=_has_only_ids(forms, render))
    return ToolForms(tools)


def _reads(forms: ToolForms, render: Render, tools: Sequence[Json], before: str | None) -> bool:
    """Return whether a call and its result are in the text, in JSON."""
    said = _said(NAME)
    result: Message = {"role": "tool", "content": RESULT, "tool_call_id": ID, "name": NAME}
    text = render([USER, said, result], tools, forms)
    if text is None or VALUE not in text or RESULT not in text:
        return False
    return all(text.count(wrong) <= (before or "").count(wrong) for wrong in WRONG)


def _said(name: str) -> Message:
    call = {"id": ID, "type": "function", "function": {"name": name, "arguments": {"word": VALUE}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _has_only_ids(forms: ToolForms, render: Render) -> bool:
    text = render([USER, _said(OTHER)], (), forms)
    return text is not None and ID in text and OTHER not in text


def _with_names(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield messages with ids as Kimi K2 writes them, ``functions.NAME:NUMBER``, where they lack their names."""
    ids: dict[str, str] = {}
    count = 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls") or ():
            name = call["function"]["name"]
            has_name = re.fullmatch(rf"(functions\.)?{re.escape(name)}:[0-9]+", call["id"])
            ids[call["id"]] = call["id"] if has_name else f"functions.{name}:{count}"
            calls.append({**call, "id": ids[call["id"]]})
            count += 1
        answered = message.get("tool_call_id")
        changed = {"tool_calls": calls} if calls else {"tool_call_id": ids.get(answered, answered)} if answered else {}
        yield {**message, **changed}


def _parts(content: Json) -> Json:
    return [{"type": "text", "text": text_of(content)}]
