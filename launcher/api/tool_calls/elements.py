"""Calls whose arguments are elements with a text each, as Qwen3-Coder and GLM write them; schemas give their types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from launcher.api.endless import target_of
from launcher.api.tool_calls.base import Call, Elements, Frame, NotACall, ToolCallFormat, loaded
from launcher.core.types import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
PYTHONS = {"True": True, "False": False, "None": None}
"""Templates of Qwen3-Coder write constants of earlier calls as Python does."""


class OfElements(ToolCallFormat):
    """What the forms have in common. Regular expressions find the parts of a call one after the other."""

    _head: re.Pattern[str]
    _key: re.Pattern[str]
    _value_end: re.Pattern[str]
    _tail: re.Pattern[str]

    marks = (OPEN,)

    def end(self, block: str) -> int | None:
        """Return where a call or a text between the marks ends; ``</tool_call>`` within a value does not end it."""
        at = block.find(CLOSE)
        while at >= 0:
            end = at + len(CLOSE)
            try:
                self._read(block[:end])
            except _WithinValue:
                at = block.find(CLOSE, end)
                continue
            except NotACall:
                pass
            return end
        return None

    def calls(self, block: str, tools: Mapping[str, Json]) -> Sequence[Call]:
        name, arguments = self._read(block)
        schema = tools.get(name)
        root = schema if isinstance(schema, Mapping) else {}
        properties = root.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        other = root.get("additionalProperties", True)
        typed = {key: typed_value(text, known.get(key, other), root) for key, text in arguments.items()}
        return [Call(name, json.dumps(typed, ensure_ascii=False, allow_nan=False))]

    def _read(self, block: str) -> tuple[str, dict[str, str]]:
        """Return the name and the texts of the arguments of one whole call. Raises `NotACall`."""
        head = self._head.match(block)
        if head is None:
            raise NotACall("no name behind the mark")
        at, arguments = head.end(), {}
        while (tail := self._tail.match(block, at)) is None:
            key = self._key.match(block, at)
            if key is None:
                raise NotACall("neither an argument nor the end of the call")
            end = self._value_end.search(block, key.end())
            if end is None:
                raise _WithinValue("an argument without its end")
            if key["key"] in arguments:
                raise NotACall("an argument twice")
            arguments[key["key"]] = block[key.end() : end.start()]
            at = end.end()
        if block[tail.end() :].strip():
            raise NotACall("text behind the call")
        return head["name"], arguments


class Qwen3Coder(OfElements):
    """``<function=NAME>`` with ``<parameter=KEY>`` for each argument, whose values stand in lines of their own."""

    name = "qwen3_coder"
    more_marks = (CLOSE,)
    frame = Frame("", f"{OPEN}\n<function=", ">\n", f"</function>\n{CLOSE}", "\n", "")
    elements = Elements("<parameter=", ">\n", "\n", "</parameter>")
    _head = re.compile(r"<tool_call>\s*<function=(?P<name>[^<>\s]+)>\s*")
    _key = re.compile(r"<parameter=(?P<key>[^<>\n]+)>\n?")
    _value_end = re.compile(r"\n?</parameter>\s*(?=<parameter=|</function>)")
    _tail = re.compile(r"</function>\s*(?:</tool_call>)?")


class Glm(OfElements):
    """A name, then ``<arg_key>`` and ``<arg_value>`` for each argument, in lines of their own."""

    name = "glm45"
    more_marks = (CLOSE, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    frame = Frame("", OPEN, "\n", CLOSE, "\n", "")
    elements = Elements("<arg_key>", "</arg_key>\n<arg_value>", "", "</arg_value>")
    _head = re.compile(r"<tool_call>\s*(?P<name>[^<>\s]+)\s*(?=<)")
    _key = re.compile(r"<arg_key>\s*(?P<key>[^<>\n]+?)\s*</arg_key>\s*<arg_value>")
    _value_end = re.compile(r"</arg_value>\s*(?=<arg_key>|</tool_call>)")
    _tail = re.compile(r"</tool_call>")


class Glm47(Glm):
    """The same without lines."""

    name = "glm47"
    frame = Frame("", OPEN, "", CLOSE, "", "")
    elements = Elements("<arg_key>", "</arg_key><arg_value>", "", "</arg_value>", "")


class _WithinValue(NotACall):
    """A text that ends within a value."""


def typed_value(text: str, schema: Json, root: Mapping[str, Json]) -> Json:
    """Return the value of an argument: JSON of a type that its schema allows beside strings, else the text itself."""
    types = types_of(schema, root)
    if types == {"string"}:
        return text
    try:
        found = PYTHONS[text.strip()] if text.strip() in PYTHONS else loaded(text)
    except NotACall:
        return text
    return found if "string" not in types or (types - {"string"}) & _types_of_value(found) else text


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
        yield frozenset().union(*map(_types_of_value, schema["enum"]))
    if "const" in schema:
        yield _types_of_value(schema["const"])
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            yield frozenset().union(*(types_of(each, root, depth - 1) for each in schema[word]))
    if isinstance(schema.get("allOf"), list):
        yield from (types_of(each, root, depth - 1) for each in schema["allOf"])
    if isinstance(ref, str):
        yield types_of(target_of(root, ref), root, depth - 1)


def _types_of_value(value: Json) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number", "integer"}) if value.is_integer() else frozenset({"number"})
    return frozenset({"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"})
