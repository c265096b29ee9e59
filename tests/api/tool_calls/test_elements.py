"""Calls of Qwen3-Coder, GLM, DeepSeek and Granite: what is read of them, typed by schemas, and what stays content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.api.tool_calls.deepseek import BEGIN, BETWEEN, CLOSE, END, OPEN
from launcher.api.tool_calls.dsml import DSML
from launcher.api.tool_calls.elements import typed_value
from launcher.api.tool_calls.formats import format_of, unread_form
from launcher.api.tool_calls.reading import ForcedReader, Reader
from tests.api.tool_calls.test_reading import calls_of, cut_at, cuts, read
from tests.fuzzing import examples

SCHEMA = {
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "deep": {"type": "object"},
        "many": {"type": "array"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "color": {"$ref": "#/$defs/Color"},
    },
    "$defs": {"Color": {"enum": ["1", "2"]}},
}
TOOLS = {"f": SCHEMA, "g": {"properties": {}}}
VALUES: dict[str, Any] = {
    "text": '12 "quoted" {brace} \\n a\nb </tool_call> <parameter=x> é🌍',
    "count": 7,
    "share": 0.5,
    "flag": True,
    "deep": {"a": {"b": ['}"</tool_call>', None]}},
    "many": [1, "x", {}],
    "maybe": None,
    "color": "2",
}


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def qwen(name: str, arguments: dict[str, Any]) -> str:
    lines = "".join(f"<parameter={key}>\n{written(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


def glm45(name: str, arguments: dict[str, Any], between: str = "\n") -> str:
    lines = (
        f"<arg_key>{k}</arg_key>{between}<arg_value>{written(v)}</arg_value>{between}" for k, v in arguments.items()
    )
    return f"<tool_call>{name}{between}{''.join(lines)}</tool_call>"


def glm47(name: str, arguments: dict[str, Any]) -> str:
    return glm45(name, arguments, "")


def v3(*calls: tuple[str, dict[str, Any]]) -> str:
    found = (f"{BEGIN}function{BETWEEN}{n}\n```json\n{json.dumps(a, ensure_ascii=False)}\n```{END}" for n, a in calls)
    return OPEN + "\n".join(found) + CLOSE


def v31(*calls: tuple[str, dict[str, Any]]) -> str:
    return OPEN + "".join(f"{BEGIN}{n}{BETWEEN}{json.dumps(a, ensure_ascii=False)}{END}" for n, a in calls) + CLOSE


def kimi(*calls: tuple[str, dict[str, Any]]) -> str:
    found = (
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{written(arguments)}<|tool_call_end|>"
        for i, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{''.join(found)}<|tool_calls_section_end|>"


def dsml(*calls: tuple[str, dict[str, Any]], block: str = "function_calls") -> str:
    """Return calls as DeepSeek's own code for V3.2 and V4 writes them into a prompt."""
    found = []
    for name, arguments in calls:
        lines = (
            f'<{DSML}parameter name="{key}" string="{str(isinstance(value, str)).lower()}">'
            f"{written(value)}</{DSML}parameter>"
            for key, value in arguments.items()
        )
        found.append(f'<{DSML}invoke name="{name}">\n' + "\n".join(lines) + f"\n</{DSML}invoke>")
    return f"<{DSML}{block}>\n" + "\n".join(found) + f"\n</{DSML}{block}>"


def dsml4(*calls: tuple[str, dict[str, Any]]) -> str:
    return dsml(*calls, block="tool_calls")


def granite(*calls: tuple[str, dict[str, Any]], mark: str = "<|tool_call|>") -> str:
    return mark + json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])


WRITERS = {"qwen3_coder": qwen, "glm45": glm45, "glm47": glm47}
LISTS = {
    "deepseek_v3": v3, "deepseek_v31": v31, "granite": granite, "kimi_k2": kimi, "deepseek_v32": dsml,
    "deepseek_v4": dsml4,
}  # fmt: skip
PIECEWISE = ("deepseek_v3", "deepseek_v31", "granite", "kimi_k2")
"""Forms whose forced calls are passed on as they come."""
FULL: tuple[str, dict[str, Any]] = ("f", VALUES)
EMPTY: tuple[str, dict[str, Any]] = ("g", {})


def all_of(form: str, *calls: tuple[str, dict[str, Any]]) -> str:
    if form in LISTS:
        return LISTS[form](*calls)
    return "\n".join(WRITERS[form](*call) for call in calls)


def reader(form: str, single: bool = False) -> Reader:
    found = format_of(form, "")
    assert found is not None
    return Reader(found, TOOLS, single=single)


@pytest.mark.parametrize("form", [*WRITERS, *LISTS])
def test_two_calls_with_text_around_them(form: str) -> None:
    answer = f"I look. \n{all_of(form, FULL, EMPTY)}\n done"
    for pieces in cuts(answer):
        found = read(reader(form), pieces)
        assert (found.text, calls_of(found), found.unparsed) == ("I look.\ndone", [FULL, EMPTY], 0)
        assert found.finish == "tool_calls"


@pytest.mark.parametrize("form", [*WRITERS, *LISTS])
def test_a_call_that_is_cut_by_its_limit_is_none_and_loses_nothing(form: str) -> None:
    answer = all_of(form, ("f", {"text": "a </parameter> b", "count": 7}))
    whole = len(answer) if form in ("glm45", "glm47", "granite") else len(answer) - 1
    for size in range(1, whole):
        texts = [read(reader(form), pieces, "length") for pieces in ([answer[:size]], [*answer[:size]])]
        for found in texts:
            assert found.finish == "length"
            assert found.calls or found.text == answer[:size]
            assert not found.calls or calls_of(found) == [("f", {"text": "a </parameter> b", "count": 7})]
        assert bool(texts[0].calls) == bool(texts[1].calls)


@pytest.mark.parametrize("form", [*WRITERS, *LISTS])
def test_one_call_at_most_where_they_may_not_be_parallel(form: str) -> None:
    found = read(reader(form, single=True), [all_of(form, EMPTY, EMPTY)])
    assert calls_of(found) == [EMPTY]
    assert (found.unparsed, bool(found.text)) == (1, True)


@pytest.mark.parametrize("form", [*WRITERS, *LISTS])
def test_a_function_that_is_unknown_is_passed_on(form: str) -> None:
    found = read(reader(form), [all_of(form, ("other", {"a": "x", "b": 1}))])
    assert calls_of(found) == [("other", {"a": "x", "b": 1})]


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ("qwen3_coder", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ("qwen3_coder", "<tool_call>\n<function=f>\nno\n</function>\n</tool_call>"),
        (
            "qwen3_coder",
            "<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>",
        ),
        ("qwen3_coder", "<function=f>\n</function>"),
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>"),
        ("qwen3_coder", '<tool_call><function=f><parameter=deep>{"a": "\\ud83c"}</parameter></function></tool_call>'),
        ("glm45", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
        ("glm45", "<tool_call>f\n<arg_key>a</arg_key>\n</tool_call>"),
        ("glm47", "<tool_call></tool_call>"),
        ("deepseek_v3", v31(("f", {}))),
        ("deepseek_v31", v3(("f", {}))),
        ("deepseek_v3", OPEN + CLOSE),
        ("deepseek_v31", f"{OPEN}{BEGIN}f{BETWEEN}[1]{END}{CLOSE}"),
        ("deepseek_v31", f'{OPEN}{BEGIN}f{BETWEEN}{{"a": NaN}}{END}{CLOSE}'),
        ("deepseek_v31", f"{OPEN}{BEGIN}f{BETWEEN}{{}}{END} and {CLOSE}"),
        ("kimi_k2", kimi(("f", {})).replace(":0", "")),
        ("kimi_k2", kimi(("f", {})).replace("{}", "")),
        ("kimi_k2", kimi(("f", {})).replace("{}", "[1]")),
        ("kimi_k2", kimi()),
        ("deepseek_v32", dsml()),
        ("deepseek_v32", dsml4(("f", {})).replace("tool_calls>", "function_calls>", 1)),
        ("deepseek_v32", dsml(("f", {"a": 1})).replace(' string="false"', ' string="maybe"')),
        ("deepseek_v32", dsml(("f", {})).replace("\n\n", "\nno\n")),
        ("granite", "<|tool_call|>[]"),
        ("granite", '<|tool_call|>{"name": "f", "arguments": {}}'),
        ("granite", '<|tool_call|>[{"name": "f", "arguments": {"a": 1e999}}]'),
        ("granite", "<|tool_call|> oh"),
    ],
)
def test_what_is_no_call_stays_content_however_it_is_cut(form: str, answer: str) -> None:
    for pieces in cuts(answer):
        found = read(reader(form), pieces)
        assert (found.text, found.calls, found.finish) == (answer, [], "stop")
        assert found.unparsed == (not answer.startswith("<function="))


def test_calls_behind_one_that_is_none_are_read() -> None:
    for pieces in cuts(f"<tool_call>\nno\n</tool_call>\n{qwen(*EMPTY)}"):
        found = read(reader("qwen3_coder"), pieces)
        assert (found.text, calls_of(found), found.unparsed) == ("<tool_call>\nno\n</tool_call>", [EMPTY], 1)


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", {"type": "string"}, "12"),
        ("true", {"type": "string"}, "true"),
        ('{"a": 1}', {"type": "string"}, '{"a": 1}'),
        ('"12"', {"type": "string"}, '"12"'),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("1", {"const": "1"}, "1"),
        ("1", {"$ref": "#/$defs/Color"}, "1"),
        ("12", {"type": "integer"}, 12),
        (" 12\n", {"type": "integer"}, 12),
        ("12", {"type": ["string", "integer"]}, 12),
        ("1.0", {"type": "integer"}, 1.0),
        ("twelve", {"type": "integer"}, "twelve"),
        ("012", {"type": "integer"}, "012"),
        ("1e999", {"type": "number"}, "1e999"),
        ("NaN", {"type": "number"}, "NaN"),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["integer", "null"]}, None),
        ("None", {"type": "string"}, "None"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("12", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "12"),
        ("12", {}, 12),
        ("12", True, 12),
        ('"12"', {}, '"12"'),
        ("twelve", {}, "twelve"),
        ("[1, {}]", {"type": "array"}, [1, {}]),
        ("12", {"type": 7}, 12),
        ("x", {"$ref": "#/$defs/Endless"}, "x"),
        ("x", {"$ref": "elsewhere.json"}, "x"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("[" * 100_000, {"type": "array"}, "[" * 100_000),
        ("", {"type": "string"}, ""),
    ],
)
def test_the_schema_says_what_a_text_is(text: str, schema: Any, value: Any) -> None:
    root = {"$defs": {"Color": {"enum": ["1", "2"]}, "Endless": {"$ref": "#/$defs/Endless"}}}
    found = typed_value(text, schema, root)
    assert (found, type(found)) == (value, type(value))


TEXTS = st.text(max_size=12).filter(lambda text: "<" not in text and text == text.strip("\n"))


@settings(max_examples=examples(60), deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), TEXTS, max_size=3), st.lists(st.integers(0, 999), max_size=6))
def test_any_texts_come_back(arguments: dict[str, str], places: list[int]) -> None:
    tools = {"f": {"properties": {key: {"type": "string"} for key in "abcd"}}}
    for form, write in WRITERS.items():
        found_format = format_of(form, "")
        assert found_format is not None
        found = read(Reader(found_format, tools), cut_at(write("f", arguments), places))
        assert (found.text, calls_of(found)) == ("", [("f", arguments)])


PARTS = (
    "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", "f", "\n",
    "<arg_key>a</arg_key>", "<arg_value>", "</arg_value>", OPEN, CLOSE, BEGIN, END, BETWEEN, "<|tool_call|>", "[", "]",
    "{}", "```json\n",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)


@settings(max_examples=examples(150), deadline=None)
@given(TEXT, st.lists(st.integers(0, 999), max_size=6), st.sampled_from(["stop", "length"]))
def test_no_text_is_lost_and_no_cut_changes_what_is_read(text: str, places: list[int], finish: str) -> None:
    for form in (*WRITERS, *LISTS):
        whole, cut = (read(reader(form), pieces, finish) for pieces in ([text], cut_at(text, places)))
        assert (whole.text, calls_of(whole), whole.unparsed) == (cut.text, calls_of(cut), cut.unparsed)
        if not whole.calls:
            assert whole.text == text


@pytest.mark.parametrize("form", PIECEWISE)
def test_forced_calls_are_passed_on_as_they_come(form: str) -> None:
    found_format = format_of(form, "")
    assert found_format is not None
    answer = LISTS[form](("f", VALUES), ("g", {}))
    for pieces in cuts(answer):
        found = read(ForcedReader(found_format, found_format.frame), pieces)
        assert calls_of(found) == [("f", VALUES), ("g", {})]
        assert (found.text, found.finish) == ("", "tool_calls")


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<tool_call>\n<function=example>\n<parameter=a>", "qwen3_coder"),
        ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>", "glm45"),
        ("<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>", "glm47"),
        (f"{OPEN}{BEGIN}' + tool['type'] + '{BETWEEN}' + name + '\\n```json\\n'", "deepseek_v3"),
        ("<|tool_calls_section_begin|><|tool_call_begin|>", "kimi_k2"),
        (dsml(("f", {})), "deepseek_v32"),
        (dsml4(("f", {})), "deepseek_v4"),
        (DSML, None),
        (f"{OPEN}{BEGIN}' + name + '{BETWEEN}'", "deepseek_v31"),
        ("<|start_of_role|>assistant<|end_of_role|><|tool_call|>", "granite"),
        ("<|start_of_role|> <tool_call>\n{} </tool_call>", "hermes"),
        ("<|tool_call|>", None),
        ("<tool_call>\n<function=example>", None),
        ("<tool_call><function=a><parameter=b><arg_key>", None),
        (f"<tool_call><function=a><parameter=b> {OPEN}", None),
        ("[TOOL_CALLS] <arg_key> <tool_call>", None),
        ("<|channel|>commentary to=functions.", None),
        ("<|tool_call|>[]<|/tool_call|>", None),
    ],
)
def test_the_form_is_found_only_where_nothing_speaks_against_it(template: str, form: str | None) -> None:
    found = format_of("auto", template)
    assert (found and found.name) == form


def test_a_form_that_is_not_read_is_named() -> None:
    assert unread_form("<|channel|>commentary") == "gpt-oss (channels of Harmony)"
    assert unread_form("<tool_call>") is None
