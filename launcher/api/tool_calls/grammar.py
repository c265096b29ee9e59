"""Grammars in llguidance's Lark form that hold calls to the names and schemas of tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from launcher.api.request_schema import Function
from launcher.api.tool_calls.base import Frame, ToolCallFormat
from launcher.api.tool_calls.element_grammar import free_rules, rules
from launcher.core.types import Json

Tokens = Mapping[str, int]
"""Special tokens of a form by their texts; a text that is none of them is written as it is."""
WHITESPACE = r"\x20?"
"""Models are trained on calls in one line; small ones would go on with white space."""


def forced(form: ToolCallFormat, tools: Sequence[Function], tokens: Tokens, *, single: bool) -> str:
    """Return the grammar of an answer that consists of calls: of one if ``single``, else of at least one."""
    frame = form.frame
    more = "" if single or frame.between is None else f" ({_literal(frame.between, tokens)} call)*"
    lines = [f"start: {_literal(frame.before, tokens)} call{more} {_literal(frame.after, tokens)}"]
    return _grammar([*lines, *_calls(form, frame, tools, tokens, held=True)])


def chosen(form: ToolCallFormat, tools: Sequence[Function], tokens: Tokens, *, single: bool) -> str:
    """Return the grammar of an answer that may have calls: those of strict tools are held to their schemas."""
    mark = next((mark for mark in form.marks if (form.frame.before + form.frame.name).startswith(mark)), "")
    frame = _without(form.frame, mark)
    calls = _calls(form, frame, tools, tokens, held=False)
    if not mark:
        return _grammar([f"start: call | OTHER?\nOTHER: /[^\\s{re.escape(form.bare)}](?s:.*)/", *calls])
    group = f"{_literal(frame.before, tokens)} call"
    if frame.before and frame.between and not single:
        group += f" ({_literal(frame.between, tokens)} call)*"
    group += f" {_literal(frame.after, tokens)}"
    return _grammar([*_behind_mark(group, mark, tokens, once=single or bool(frame.before)), *calls])


def _without(frame: Frame, mark: str) -> Frame:
    if frame.before.startswith(mark):
        return replace(frame, before=frame.before.removeprefix(mark))
    return replace(frame, name=frame.name.removeprefix(mark))


def _behind_mark(group: str, mark: str, tokens: Tokens, once: bool) -> list[str]:
    """Return the rules of text with groups of calls, each behind the mark."""
    count = "?" if once else "*"
    before, token, behind = _literal(mark, tokens).partition("<[")
    if token:
        lead = f"LEAD {token}{behind}" if before else f"TEXT? {token}{behind}"
        lines = [f"start: ({lead} {group}){count} TEXT?", "TEXT: /(?s:.+)/"]
        return [*lines, f"LEAD: /(?s:.*){re.escape(json.loads(before))}/"] if before else lines
    unmarked = rf"TEXT: /(?s:.+)/ & ~/(?s:.*){re.escape(mark)}(?s:.*)/"
    return [f"start: (lead {group}){count} TEXT?", f"lead[suffix={json.dumps(mark)}]: /(?s:.*)/", unmarked]


def _calls(form: ToolCallFormat, frame: Frame, tools: Sequence[Function], tokens: Tokens, *, held: bool) -> list[str]:
    """Return the rules of a call of each tool; of those that are not ``held``, only strict ones have their schema."""
    names = [f"call{i}" for i in range(len(tools))]
    lines = [f"call: {' | '.join(names)}"]
    for name, tool in zip(names, tools, strict=True):
        schema = tool.schema_of_arguments() if held or tool.strict else None
        begin = _beginning(frame, tool.name, tokens)
        lines += _call(form, name, begin, frame.end, schema, tokens)
    return lines


def _beginning(frame: Frame, name: str, tokens: Tokens) -> str:
    if not frame.count:
        return _literal(frame.name + name + frame.arguments, tokens)
    return f"{_literal(frame.name + name + frame.count, tokens)} /[0-9]{{1,4}}/ {_literal(frame.arguments, tokens)}"


def _call(
    form: ToolCallFormat, name: str, begin: str, end: str, schema: Mapping[str, Json] | None, tokens: Tokens
) -> list[str]:
    """Return the rules of a call of one tool, held to a schema if there is one. Raises `NotHeld`."""
    literal = partial(_literal, tokens=tokens)
    if form.elements is not None and schema is None:
        return [f"{name}: {begin} {name}a", *free_rules(f"{name}a", form.elements, end, literal)]
    head = f"{name}: {begin} {name}a {literal(end)}"
    if form.elements is not None and schema is not None:
        return [head, *rules(f"{name}a", schema, form.elements, literal, WHITESPACE)]
    guided = {**(schema or {"type": "object"}), "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return [head, f"{name}a: %json {json.dumps(guided)}"]


def _literal(text: str, tokens: Tokens) -> str:
    """Return a text as the grammar has it, with special tokens by their numbers."""
    if not tokens or not text:
        return json.dumps(text) if text else ""
    parts = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
    return " ".join(f"<[{tokens[part]}]>" if part in tokens else json.dumps(part) for part in parts if part)


def _grammar(lines: Sequence[str]) -> str:
    return "\n".join(["%llguidance {}", *lines, ""])
