"""Calls whose arguments are elements with a text each, as Qwen3-Coder and GLM write them; schemas give their types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace

from launcher.api.endless import target_of
from launcher.api.tool_calls.base import Call, Elements, Frame, NotACall, ToolCallFormat, loaded
from launcher.api.tool_calls.element_parts import Argument, Parts, Syntax, WithinString, WithinValue, parts
from launcher.core.types import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
PYTHONS = {"True": True, "False": False, "None": None}
"""Templates of Qwen3-Coder write constants of earlier calls as Python does."""


class OfElements(ToolCallFormat):
    """What the forms have in common.

    Calls end at the last mark of an end before the next mark of a begin at which they can be read. For a value may hold
    such marks. So they are passed on when the next calls begin, or with the end of the answer.
    """

    _syntax: Syntax
    _close = CLOSE

    marks = (OPEN,)

    @property
    def end_marks(self) -> tuple[str, ...]:
        return (*self.marks, self._close)

    def end(self, block: str) -> int | None:
        first = self._first(block)
        following = -1 if first is None else block.find(self.marks[0], first)
        return None if first is None or following < 0 else self._last(block, first, following)

    def end_at_last(self, block: str) -> int | None:
        first = self._first(block) or self._first(block, elements=True)
        first = first or self._first(block, elements=True, strings=True)
        if first is None:
            return None
        following = block.find(self.marks[0], first)
        return self._last(block, first, following if following >= 0 else len(block))

    def _first(self, block: str, *, elements: bool = False, strings: bool = False) -> int | None:
        """Return the first mark of an end that is not within a value.

        It may be behind a value with open ``elements``, or JSON with an open string, where that is allowed.
        """
        at, in_string, may_be_value = block.find(self._close), None, False
        while at >= 0:
            end = at + len(self._close)
            try:
                found = parts(block[:end], self._syntax, first_only=True, strict=not strings)
            except WithinString:
                in_string = in_string or end
            except WithinValue:
                pass
            except NotACall:
                if in_string or not may_be_value:
                    return in_string or end
            else:
                if elements or not any(each.is_open for each in found):
                    return end
                may_be_value = True
            at = block.find(self._close, end)
        return None

    def _last(self, block: str, first: int, limit: int) -> int:
        """Return the last mark of an end up to ``limit`` at which calls can be read; the first if there is none."""
        at = block.rfind(self._close, first, limit)
        while at >= 0:
            end = at + len(self._close)
            try:
                parts(block[:end], self._syntax)
            except NotACall:
                at = block.rfind(self._close, first, at)
            else:
                return end
        return first

    def forced(self) -> ToolCallFormat:
        """A grammar keeps the ends of values out of values. So elements that open in one mean nothing."""
        found = copy(self)
        found._syntax = replace(self._syntax, opens=None)
        return found

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        return [_call(found, tools) for found in parts(block, self._syntax)]


def _call(found: Parts, tools: Mapping[str, Json]) -> Call:
    """Return a call whose arguments have the types of its function's schema, or those that the model writes."""
    schema = tools.get(found.name)
    root = schema if isinstance(schema, Mapping) else {}
    properties = root.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    other = root.get("additionalProperties", True)
    typed = {each.key: _value(each, known.get(each.key, other), root) for each in found.arguments}
    return Call(found.name, json.dumps(typed, ensure_ascii=False, allow_nan=False))


def _value(argument: Argument, schema: Json, root: Mapping[str, Json]) -> Json:
    if argument.is_text is None:
        return typed_value(argument.text, schema, root)
    return argument.text if argument.is_text else typed_value(argument.text, True, {})


class Qwen3Coder(OfElements):
    """``<function=NAME>`` with ``<parameter=KEY>`` for each argument, whose values stand in lines of their own."""

    name = "qwen3_coder"
    more_marks = (CLOSE,)
    frame = Frame("", f"{OPEN}\n<function=", ">\n", f"</function>\n{CLOSE}", "\n", "")
    elements = Elements("<parameter=", ">\n", "\n", "</parameter>", "</function>")
    _syntax = Syntax(
        begin=re.compile(r"<tool_call>\s*"),
        head=re.compile(r"<function=(?P<name>[^<>\s]+)>\s*"),
        key=re.compile(r"<parameter=(?P<key>[^<>\n]+)>\n?"),
        opens=re.compile(r"<parameter=[^<>\n]+>"),
        closes=re.compile("</parameter>"),
        value_end=re.compile(r"\n?</parameter>\s*(?=<parameter=|</function>)"),
        tail=re.compile(r"</function>\s*(?:</tool_call>)?"),
    )


class Glm(OfElements):
    """A name, then ``<arg_key>`` and ``<arg_value>`` for each argument, in lines of their own."""

    name = "glm45"
    more_marks = (CLOSE, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    frame = Frame("", OPEN, "\n", CLOSE, "\n", "")
    elements = Elements("<arg_key>", "</arg_key>\n<arg_value>", "", "</arg_value>", CLOSE)
    _syntax = Syntax(
        begin=re.compile(r"<tool_call>\s*"),
        head=re.compile(r"(?P<name>[^<>\s]+)\s*(?=<)"),
        key=re.compile(r"<arg_key>\s*(?P<key>[^<>\n]+?)\s*</arg_key>\s*<arg_value>"),
        opens=re.compile("<arg_value>"),
        closes=re.compile("</arg_value>"),
        value_end=re.compile(r"</arg_value>\s*(?=<arg_key>|</tool_call>)"),
        tail=re.compile("</tool_call>"),
    )


class Glm47(Glm):
    """The same without lines."""

    name = "glm47"
    frame = Frame("", OPEN, "", CLOSE, "", "")
    elements = Elements("<arg_key>", "</arg_key><arg_value>", "", "</arg_value>", CLOSE, "")


def typed_value(text: str, schema: Json, root: Mapping[str, Json]) -> Json:
    """Return the value of an argument: JSON of a type that its schema allows beside strings, else the text itself."""
    types = types_of(schema, root)
    if types == {"string"}:
        return text
    try:
        found = PYTHONS[text.strip()] if text.strip() in PYTHONS else loaded(text)
    except NotACall:
        return text
    return found if "string" not in types or (types - {"string"}) & types_of_value(found) else text


def types_of(schema: Json, root: Mapping[str, Json], depth: int = 8) -> frozenset[str]:
    """Return the types that a schema allows, as far as it says so itself; all where it does not."""
    if schema is False:
        return frozenset()
    if not isinstance(schema, Mapping) or depth == 0:
        return TYPES
    return frozenset.intersection(TYPES, *_limits(schema, root, depth))


def _limits(schema: Mapping[str, Json], root: Mapping[str, Json], depth: int) -> Iterator[frozenset[str]]:
    kind, ref = schema.get("type"), schema.get("$ref")
    if isinstance(kind, str | list):
        named = frozenset([kind] if isinstance(kind, str) else map(str, kind))
        yield named | {"integer"} if "number" in named else named
    if isinstance(schema.get("enum"), list):
        yield frozenset().union(*map(types_of_value, schema["enum"]))
    if "const" in schema:
        yield types_of_value(schema["const"])
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            yield frozenset().union(*(types_of(each, root, depth - 1) for each in schema[word]))
    if isinstance(schema.get("allOf"), list):
        yield from (types_of(each, root, depth - 1) for each in schema["allOf"])
    if isinstance(ref, str):
        yield types_of(target_of(root, ref), root, depth - 1)


def types_of_value(value: Json) -> frozenset[str]:
    """Return the types of a value in the words of schemas."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"}) if value.is_integer() else frozenset({"number"})
    return frozenset({"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"})
