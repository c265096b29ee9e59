"""Any arguments come back from what templates write, and the grammars of forced calls take what templates write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from launcher.api.detokenizer import TextDelta
from launcher.api.request_schema import Function
from launcher.api.structured import _bytes
from launcher.api.tool_calls.element_grammar import NotHeld
from launcher.api.tool_calls.formats import FORMATS, format_of
from launcher.api.tool_calls.request import ToolUse
from launcher.core.types import Json
from tests.api.tool_calls.test_elements import LISTS, all_of
from tests.api.tool_calls.test_elements import WRITERS as ELEMENTS
from tests.api.tool_calls.test_reading import calls_of, cut_at
from tests.fuzzing import examples

Call = tuple[str, dict[str, Any]]


def dumped(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def hermes(*calls: Call) -> str:
    return "\n".join(f"<tool_call>\n{dumped({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls)


def llama(*calls: Call) -> str:
    return "; ".join(dumped({"name": name, "parameters": arguments}) for name, arguments in calls)


def mistral(*calls: Call) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(arguments)}" for name, arguments in calls)


def pythonic(*calls: Call) -> str:
    listed = ((name, ", ".join(f"{key}={value!r}" for key, value in arguments.items())) for name, arguments in calls)
    return f"[{', '.join(f'{name}({values})' for name, values in listed)}]"


def granite(*calls: Call) -> str:
    return "<|tool_call|>" + dumped([{"name": name, "arguments": arguments} for name, arguments in calls])


WRITERS = {"hermes": hermes, "llama3_json": llama, "mistral": mistral, "pythonic": pythonic, "granite": granite}
ODD = [
    "12",
    "-0",
    "1.5",
    "true",
    "null",
    "None",
    "True",
    "{}",
    "[]",
    '{"a": 1}',
    '"q"',
    "\n",
    "\n\n",
    " a ",
    "a\n",
    "\na",
]
ODD += ["\u2028", "\x00", "<b>", "</b>", "<", "\\n", '\\"', "'", "a\r\nb", "`", "```json", "1e400", "NaN", "01", "\t"]
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")
TEXTS = st.text(CHARACTERS, max_size=8) | st.sampled_from(ODD)
"""llguidance lets no DEL (7F) stand in JSON as it is."""
NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
ANY = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["a", "name", "arguments", "parameters", "type", "_x9", "ключ", "text", "string"])
SPACED = st.sampled_from(["a b", "a.b", "9", "é-è"])
LISTED = ["12", "null", "a b", "\n", "[]"]
KINDS: list[tuple[Json, st.SearchStrategy[Json]]] = [
    ({"type": "string"}, TEXTS),
    ({"type": "integer"}, st.integers(-(10**18), 10**18)),
    ({"type": "number"}, NUMBERS),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "null"}, st.none()),
    ({"type": "array"}, st.lists(ANY, max_size=3)),
    ({"type": "object"}, st.dictionaries(TEXTS, ANY, max_size=3)),
    ({"type": "string", "enum": LISTED}, st.sampled_from(LISTED)),
    ({"const": "12"}, st.just("12")),
    ({"type": ["integer", "null"]}, st.none() | st.integers(-5, 5)),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, st.none() | st.sampled_from(["", "12", "a"])),
    ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, st.integers(-5, 5) | st.lists(ANY, max_size=2)),
    ({"$ref": "#/$defs/Word"}, TEXTS),
    ({}, st.integers() | st.booleans() | st.none() | st.lists(ANY, max_size=2)),
]


def drawn(data: st.DataObject, keys: st.SearchStrategy[str]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return a schema, and arguments that it allows, in its order."""
    properties, arguments = {}, {}
    for key in data.draw(st.lists(keys, max_size=4, unique=True)):
        properties[key], values = data.draw(st.sampled_from(KINDS))
        if data.draw(st.booleans()):
            arguments[key] = data.draw(values)
    schema = {"type": "object", "properties": properties, "required": [*arguments]}
    return {**schema, "$defs": {"Word": {"type": "string"}}}, arguments


def written(form: str, *calls: Call) -> str:
    return WRITERS[form](*calls) if form in WRITERS else all_of(form, *calls)


def use_of(form: str, schema: dict[str, Json], forced: bool) -> ToolUse:
    found = format_of(form, "[ARGS]" if form == "mistral" else "")
    assert found is not None
    return ToolUse(found, [Function(name="f", parameters=schema)], {}, forced=forced, single=False)


@pytest.mark.parametrize("form", [form.name for form in FORMATS])
@settings(max_examples=examples(40), deadline=None)
@given(st.data(), st.lists(st.integers(0, 400), max_size=5))
def test_any_arguments_come_back(form: str, data: st.DataObject, places: list[int]) -> None:
    schema, arguments = drawn(data, KEYS if form == "pythonic" else KEYS | SPACED)
    calls = [("f", arguments), *([] if form == "llama3_json" else [("f", {})])]
    reader, whole = use_of(form, schema, forced=False).reader(), TextDelta()
    pieces = [TextDelta(piece) for piece in cut_at(written(form, *calls), places)]
    for delta in [*pieces, TextDelta(finish="stop")]:
        reader.read(delta)
        whole.add(delta)
    assert (whole.text, whole.unparsed, repr(calls_of(whole))) == ("", 0, repr(calls))


@pytest.mark.parametrize("form", [form.name for form in FORMATS if form.name != "pythonic"])
@settings(max_examples=examples(20), deadline=None)
@given(st.data())
def test_a_grammar_takes_what_templates_write(form: str, data: st.DataObject) -> None:
    """Else a model that is held to it would have to write what it was not trained on."""
    schema, arguments = drawn(data, KEYS | SPACED)
    use = use_of(form, schema, forced=True)
    try:
        grammar = use.grammar()
    except NotHeld:
        return
    text = written(form, ("f", arguments)).encode()
    matcher = LLMatcher(_bytes(), grammar, log_level=0)
    assert matcher.try_consume_tokens(list(text)) == len(text), matcher.get_error()
    assert matcher.is_accepting()


def test_each_form_has_a_writer() -> None:
    assert {form.name for form in FORMATS} == {*WRITERS, *ELEMENTS, *LISTS}
