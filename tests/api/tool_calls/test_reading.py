"""Calls are read out of answers in the forms of the model families, however the text is cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.api.detokenizer import CallReader, TextDelta
from launcher.api.tool_calls.formats import format_of
from launcher.api.tool_calls.reading import ForcedReader, Reader
from tests.fuzzing import examples

PARIS, ROME = {"city": "Paris"}, {"city": "Rome", "days": [1, 2.5, None, True]}
ONE, TWO = ("weather", PARIS), ("weather", ROME)


def hermes(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def llama(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "parameters": arguments})


READ: list[tuple[str, str, str | None, list[tuple[str, Any]], int]] = [
    # form, answer, content, calls, unparsed
    ("hermes", "Just text.", "Just text.", [], 0),
    ("hermes", " \n text \n", " \n text \n", [], 0),
    ("hermes", hermes(*ONE), None, [ONE], 0),
    ("hermes", f"\n{hermes(*ONE)}\n{hermes(*TWO)}\n", None, [ONE, TWO], 0),
    ("hermes", f"I look. \n{hermes(*ONE)} done", "I look.\ndone", [ONE], 0),
    ("hermes", hermes("weather", {"city": "a </tool_call> \" \\ b"}), None,
     [("weather", {"city": "a </tool_call> \" \\ b"})], 0),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', None, [("now", {})], 0),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', None, [("f", {"a": 1})], 0),
    ("hermes", f"<tool_call>{json.dumps([{'name': 'a', 'arguments': {}}, {'name': 'b', 'arguments': {}}])}</tool_call>",
     None, [("a", {}), ("b", {})], 0),
    ("hermes", hermes(*ONE).removesuffix("</tool_call>"), None, [ONE], 0),
    ("hermes", "a <tool_call>{nonsense</tool_call> b", "a <tool_call>{nonsense</tool_call> b", [], 1),
    ("hermes", f"<tool_call>no</tool_call>{hermes(*ONE)}", "<tool_call>no</tool_call>", [ONE], 1),
    ("hermes", '<tool_call>{"name": "weather", "argum', '<tool_call>{"name": "weather", "argum', [], 1),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
     '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', [], 1),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
     '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', [], 1),
    ("hermes", "1 < 2 <tool", "1 < 2 <tool", [], 0),
    ("llama3_json", "Just {text}.", "Just {text}.", [], 0),
    ("llama3_json", llama(*ONE), None, [ONE], 0),
    ("llama3_json", f" {llama(*ONE)};\n{llama(*TWO)}", None, [ONE, TWO], 0),
    ("llama3_json", f"<|python_tag|>{llama('other', PARIS)}", None, [("other", PARIS)], 0),
    ("llama3_json", f"Text <|python_tag|>{llama(*ONE)}", "Text", [ONE], 0),
    ("llama3_json", '<|python_tag|>search.call(query="x")', '<|python_tag|>search.call(query="x")', [], 1),
    ("llama3_json", llama("other", PARIS), llama("other", PARIS), [], 1),
    ("llama3_json", '{"answer": 12}', '{"answer": 12}', [], 0),
    ("llama3_json", '{"answer": 12', '{"answer": 12', [], 0),
    ("llama3_json", f"{llama(*ONE)} and more", "and more", [ONE], 0),
    ("mistral", "Just [text].", "Just [text].", [], 0),
    ("mistral", f'[TOOL_CALLS] [{json.dumps({"name": "weather", "arguments": PARIS})}]', None, [ONE], 0),
    ("mistral", f'Hm. [TOOL_CALLS][{json.dumps({"name": "weather", "arguments": ROME})}]', "Hm.", [TWO], 0),
    ("mistral", f"[TOOL_CALLS]weather[ARGS]{json.dumps(PARIS)}[TOOL_CALLS]weather[ARGS]{json.dumps(ROME)}", None,
     [ONE, TWO], 0),
    ("mistral", f"[TOOL_CALLS]weather[CALL_ID]abc[ARGS]{json.dumps(PARIS)}", None, [ONE], 0),
    ("mistral", "[TOOL_CALLS] oh", "[TOOL_CALLS] oh", [], 1),
    ("mistral", "[TOOL_CALLS][]", "[TOOL_CALLS][]", [], 1),
    ("pythonic", "Just [text].", "Just [text].", [], 0),
    ("pythonic", '[weather(city="Paris"), weather(city=\'Rome\', days=[1, 2.5, None, true])]', None, [ONE, TWO], 0),
    ("pythonic", '[a.b(x={"k": -1, "])": "([{"}), now()]', None,
     [("a.b", {"x": {"k": -1, "])": "([{"}}), ("now", {})], 0),
    ("pythonic", "[1, 2]", "[1, 2]", [], 0),
    ("pythonic", "[weather(city=Paris)]", "[weather(city=Paris)]", [], 1),
    ("pythonic", '[weather("Paris")]', '[weather("Paris")]', [], 1),
    ("pythonic", '[weather(city="Par', '[weather(city="Par', [], 1),
    *[("hermes", text, text, [], 1) for text in (
        '<tool_call>{"name": "f", "arguments": {"a": "\\ud83c"}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"\\ud83c": 1}}</tool_call>',
        '<tool_call>{"name": "\\ud83c", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": [1e999]}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": -1e999}"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": ""}</tool_call>')],
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\ud83c\\udf0d"}}</tool_call>', None,
     [("f", {"a": "🌍"})], 0),
    *[(form, text, text, [], 1) for form, text in (
        ("llama3_json", '{"name": "weather", "parameters": {"a": 1e999}}'),
        ("llama3_json", '{"name": "weather", "parameters": {"a": "\\ud83c"}}'),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "\\ud83c"}'), ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1e999}'),
        ("pythonic", "[f(a='\\ud83c')]"), ("pythonic", "[f(a=1e999)]"), ("pythonic", "[f(a=-1e999)]"))],
]  # fmt: skip


def read(reader: CallReader, pieces: list[str], finish: Any = "stop") -> TextDelta:
    whole = TextDelta()
    for at, piece in enumerate(pieces, start=1):
        delta = TextDelta(piece, finish=finish if at == len(pieces) else None)
        reader.read(delta)
        whole.add(delta)
    return whole


def calls_of(found: TextDelta) -> list[tuple[str, Any]]:
    arguments: dict[int, str] = {}
    for piece in found.calls:
        assert (piece.id is None) == (piece.index in arguments) == (piece.name is None)
        arguments[piece.index] = arguments.get(piece.index, "") + piece.arguments
    names = [piece.name or "" for piece in found.calls if piece.name]
    return [(name, json.loads(text)) for name, text in zip(names, arguments.values(), strict=True)]


def cuts(text: str) -> list[list[str]]:
    """Return the text whole, as characters, and cut in other ways."""
    dice, found = random.Random(text), [[text], [*text, ""]]
    for _ in range(4):
        at = sorted(dice.sample(range(len(text) + 1), 3))
        found.append([text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])
    return found


@pytest.mark.parametrize(("form", "answer", "content", "calls", "unparsed"), READ)
def test_an_answer_is_read_however_it_is_cut(
    form: str, answer: str, content: str | None, calls: list[tuple[str, Any]], unparsed: int
) -> None:
    for pieces in cuts(answer):
        found_format = format_of(form, "")
        assert found_format is not None
        found = read(Reader(found_format, {"weather": {}}), pieces)
        assert (found.text or None, calls_of(found), found.unparsed) == (content, calls, unparsed), pieces
        assert found.finish == ("tool_calls" if calls else "stop")


LIST = json.dumps([{"name": "weather", "arguments": PARIS}, {"name": "now", "arguments": {}}])


@pytest.mark.parametrize(
    ("form", "answer", "content", "calls", "unparsed"),
    [
        ("hermes", hermes(*ONE), None, [ONE], 0),
        ("hermes", f"{hermes(*ONE)}\n{hermes(*TWO)}", hermes(*TWO), [ONE], 1),
        ("hermes", f"{hermes(*ONE)}{hermes(*TWO)}{hermes(*TWO)}", hermes(*TWO) * 2, [ONE], 2),
        ("hermes", f"<tool_call>{LIST}</tool_call>", f"<tool_call>{LIST}</tool_call>", [("weather", PARIS)], 1),
        ("llama3_json", f"{llama(*ONE)}; {llama(*TWO)}", llama(*TWO), [ONE], 1),
        ("mistral", f"[TOOL_CALLS]{LIST}", f"[TOOL_CALLS]{LIST}", [ONE], 1),
        ("pythonic", "[weather(city='Paris'), now()]", "[weather(city='Paris'), now()]", [ONE], 1),
    ],
)
def test_of_calls_that_may_not_be_parallel_the_first_is_one(
    form: str, answer: str, content: str | None, calls: list[tuple[str, Any]], unparsed: int
) -> None:
    for pieces in cuts(answer):
        found_format = format_of(form, "")
        assert found_format is not None
        found = read(Reader(found_format, {"weather": {}}, single=True), pieces)
        assert (found.text or None, calls_of(found), found.unparsed) == (content, calls, unparsed), pieces
        assert found.finish == "tool_calls"


FRAMED = [(form, template) for form in ("hermes", "llama3_json", "pythonic") for template in ("",)]
FRAMED += [("mistral", ""), ("mistral", "[ARGS]")]


@pytest.mark.parametrize(("form", "template"), FRAMED)
@pytest.mark.parametrize("number", [1, 2])
def test_forced_calls_are_passed_on_as_they_come(form: str, template: str, number: int) -> None:
    found_format = format_of(form, template)
    assert found_format is not None
    frame = found_format.frame
    if number == 2 and frame.between is None:
        pytest.skip("one call is the most of this form")
    arguments = [json.dumps({"a": '} ] " \\'}), json.dumps({"a": {"b": ["{"]}})][:number]
    written = (frame.between or "").join(f"{frame.name}f{frame.arguments}{text}{frame.end}" for text in arguments)
    answer = frame.before + written + frame.after
    for pieces in cuts(answer):
        found = read(ForcedReader(found_format, frame), pieces)
        assert calls_of(found) == [("f", json.loads(text)) for text in arguments]
        assert (found.text, found.finish) == ("", "tool_calls")


def test_a_forced_call_that_is_cut_loses_nothing() -> None:
    found_format = format_of("hermes", "")
    assert found_format is not None
    answer = hermes("weather", PARIS)
    for size in range(1, len(answer)):
        for pieces in ([answer[:size]], [*answer[:size]]):
            found = read(ForcedReader(found_format, found_format.frame), pieces, "length")
            seen = found.text + "".join(f"{piece.name or ''}{piece.arguments}" for piece in found.calls)
            assert found.finish == "length"
            assert seen in answer or "weather{" in seen
            assert found.unparsed == bool(found.text)
            assert bool(found.calls) == ('"arguments": ' in answer[:size])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MARKS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "{", "}", "[", "]", '"', "\\", "f(")
TEXT = st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=8).map("".join)


def cut_at(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


@settings(max_examples=examples(60), deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.lists(st.integers(0, 999), max_size=6))
def test_any_arguments_come_back(arguments: dict[str, Any], places: list[int]) -> None:
    for form, answer in (
        ("hermes", hermes("weather", arguments)),
        ("llama3_json", llama("weather", arguments)),
        ("mistral", f"[TOOL_CALLS]weather[ARGS]{json.dumps(arguments, ensure_ascii=False)}"),
    ):
        found_format = format_of(form, "")
        assert found_format is not None
        found = read(Reader(found_format, {"weather": {}}), cut_at(answer, places))
        assert (found.text, calls_of(found)) == ("", [("weather", arguments)])


@settings(max_examples=examples(100), deadline=None)
@given(TEXT, st.lists(st.integers(0, 999), max_size=6), st.sampled_from(["stop", "length"]))
def test_no_text_is_lost_and_no_cut_changes_what_is_read(text: str, places: list[int], finish: str) -> None:
    for form in ("hermes", "llama3_json", "mistral", "pythonic"):
        found_format = format_of(form, "")
        assert found_format is not None
        whole, cut = (
            read(Reader(found_format, {"f": {}}), pieces, finish) for pieces in ([text], cut_at(text, places))
        )
        assert (whole.text, calls_of(whole), whole.unparsed) == (cut.text, calls_of(cut), cut.unparsed)
        if not whole.calls:
            assert whole.text == text


def test_ids_of_calls_differ_and_mistrals_have_nine_letters() -> None:
    for form, size in (("hermes", 29), ("mistral", 9)):
        found = format_of(form, "")
        assert found is not None
        ids = {found.new_id() for _ in range(50)}
        assert len(ids) == 50
        assert {len(each) for each in ids} == {size}


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '<tool_call>' }}", "hermes"),
        ("{{ '[TOOL_CALLS]' }}", "mistral"),
        ("{{ '<|python_tag|>' }}", "llama3_json"),
        ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json"),
        ("[func_name1(params_name1=params_value1)]", "pythonic"),
        ("<tool_call>\n<function=example>", None),
        ("<tool_call>{name}\n<arg_key>", "glm45"),
        ("{{ messages }}", None),
    ],
)
def test_the_form_is_found_in_the_template(template: str, form: str | None) -> None:
    found = format_of("auto", template)
    assert (found and found.name) == form
