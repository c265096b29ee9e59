"""Values that hold the elements and marks of their own form: none is cut, and none takes what is behind it."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from launcher.api.detokenizer import TextDelta
from launcher.api.request_schema import Function
from launcher.api.structured import _bytes
from launcher.api.tool_calls.base import ToolCallFormat
from launcher.api.tool_calls.dsml import DSML
from launcher.api.tool_calls.element_grammar import NotHeld
from launcher.api.tool_calls.formats import format_of
from launcher.api.tool_calls.grammar import chosen
from launcher.api.tool_calls.reading import Reader
from launcher.api.tool_calls.request import ToolUse
from tests.api.tool_calls.test_elements import EMPTY, LISTS, TOOLS, WRITERS, all_of, dsml, qwen, reader
from tests.api.tool_calls.test_reading import calls_of, cut_at, cuts, read
from tests.fuzzing import examples

FORMS = [*WRITERS, "deepseek_v32", "deepseek_v4"]
OPENING = ("<parameter=text>", "<arg_value>", f'<{DSML}parameter name="text" string="true">')
"""Elements in a value of a call that the model chooses must close in it, or what follows may have none."""
SEVERAL = [*WRITERS, *(form for form in LISTS if form != "granite")]


def tail_of(form: str) -> str:
    """Return what the form writes behind the value of a call with one argument."""
    written = all_of(form, ("f", {"text": "VALUE"}))
    return written.split("VALUE", 1)[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("behind", [[], [EMPTY], [("f", {"text": "12", "count": 7})]])
def test_a_text_may_hold_the_end_of_its_call(form: str, behind: list[tuple[str, dict[str, Any]]]) -> None:
    tail = tail_of(form)
    close = tail.strip().split("\n")[0].replace("</tool_call>", "")
    values = [
        f"a{tail}b",
        f"a{tail.replace(chr(10), '')} b",
        f"a{close} b{close}",
        f"{close}{tail}{tail}b",
        "</tool_call>",
    ]
    for value in values:
        calls = [("f", {"count": 1, "text": value, "flag": True}), *behind]
        for pieces in cuts(all_of(form, *calls)):
            found = read(reader(form), pieces)
            assert (found.text, calls_of(found), found.unparsed) == ("", calls, 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_may_hold_a_whole_call(form: str) -> None:
    """The elements that a value opens close in it, so that what ends them does not end the value."""
    inner = all_of(form, ("g", {"x": "1", "y": "2"}), ("h", {"x": "3"}))
    calls: list[tuple[str, dict[str, Any]]] = [("f", {"text": f"Write {inner} for a call.", "count": 7})]
    for pieces in cuts(all_of(form, *calls)):
        assert calls_of(read(reader(form), pieces)) == calls


@pytest.mark.parametrize("form", FORMS)
def test_json_ends_at_its_bracket(form: str) -> None:
    tail = tail_of(form).replace("\n", "")
    both = all_of(form, ("f", {"a": "1", "b": "2"}))
    boundary = both[both.index("1") + 1 : both.index("2")].replace("\n", "")
    calls = [("f", {"deep": {"a": f"{tail} {boundary} \\"}, "many": [boundary, tail, [tail]], "count": 7}), EMPTY]
    for pieces in cuts(all_of(form, *calls)):
        assert calls_of(read(reader(form), pieces)) == calls


@pytest.mark.parametrize("form", FORMS)
def test_broken_json_takes_nothing_of_the_next_call(form: str) -> None:
    good = ("f", {"count": 7, "text": 'a "quoted" text'})
    for broken in ('{"a": "x}', '["x', "{", '{"a": 1]', '"'):
        one = all_of(form, ("f", {"deep": "VALUE"})).replace('string="true"', 'string="false"').replace("VALUE", broken)
        for pieces in cuts(f"{one}\n{all_of(form, good)}"):
            assert calls_of(read(reader(form), pieces)) == [("f", {"deep": broken}), good]


@pytest.mark.parametrize("form", FORMS)
def test_an_end_that_is_written_twice_stays_content(form: str) -> None:
    written = all_of(form, EMPTY)
    end = "</" + written.rpartition("</")[2]
    for pieces in cuts(f"{written}{end}{end}"):
        found = read(reader(form), pieces)
        assert (found.text, calls_of(found)) == (end + end, [EMPTY])


def test_a_text_that_opens_an_element_is_read_like_any_other() -> None:
    texts = ["see <parameter=x> there", "and <parameter=x>"]
    calls: list[tuple[str, dict[str, Any]]] = [*(("f", {"text": text, "count": 1}) for text in texts), EMPTY]
    for pieces in cuts("\n".join(qwen(*call) for call in calls)):
        assert calls_of(read(reader("qwen3_coder"), pieces)) == calls


def test_the_end_of_a_loop_is_found_in_bounded_time() -> None:
    """A model that repeats itself writes many ends; each deals with a bounded number of ways to read them."""
    many = "<parameter=a>\n1\n</parameter>\n" * 2000
    found = read(reader("qwen3_coder"), [f"<tool_call>\n<function=f>\n{many}</function>\n</tool_call>"])
    assert (bool(found.text), found.calls) == (True, [])
    many = "".join(f"<parameter=a{i}>\n1\n</parameter>\n" for i in range(2000))
    found = read(reader("qwen3_coder"), [f"<tool_call>\n<function=f>\n{many}</function>\n</tool_call>"])
    assert len(calls_of(found)[0][1]) == 2000


@pytest.mark.parametrize("form", [form for form in SEVERAL if form not in FORMS])
def test_json_between_tokens_may_hold_the_tokens(form: str) -> None:
    found_format = format_of(form, "")
    assert found_format is not None
    value = "".join((*found_format.marks, *found_format.more_marks)) + '"\\\n```'
    calls = [("f", {"text": value, "many": [value]}), EMPTY]
    for pieces in cuts(f"x {all_of(form, *calls)} y"):
        found = read(reader(form), pieces)
        assert (found.text, calls_of(found)) == ("x\ny", calls)


def parts_of(form: str) -> list[str]:
    """Return the pieces of the form's calls, to make values of."""
    written = all_of(form, ("f", {"text": "a"})) + all_of(form, EMPTY)
    return sorted({part + ">" for part in written.replace("\n", "").split(">") if part} | {"\n", "a", '"', "{", "["})


@settings(max_examples=examples(60), deadline=None)
@given(st.data(), st.sampled_from(FORMS), st.lists(st.integers(0, 999), max_size=6))
def test_json_values_of_any_parts_come_back(data: st.DataObject, form: str, places: list[int]) -> None:
    texts = st.lists(st.sampled_from(parts_of(form)), max_size=6).map("".join)
    values = st.lists(texts | st.none() | st.booleans() | st.dictionaries(texts, texts, max_size=2), max_size=3)
    arguments = data.draw(st.dictionaries(st.sampled_from("abc"), values, max_size=3))
    tools = {"f": {"properties": {key: {"type": "array"} for key in "abc"}}}
    found_format = format_of(form, "")
    assert found_format is not None
    calls = [("f", arguments), ("f", {})]
    found = read(Reader(found_format, tools), cut_at(all_of(form, *calls), places))
    assert (found.text, calls_of(found)) == ("", calls)


def walked(grammar: str, pieces: list[str], begin: str, seed: int) -> str | None:
    """Return a text that a grammar allows, of pieces where they fit; None where it does not end soon."""
    matcher, dice = LLMatcher(_bytes(), grammar, log_level=0), random.Random(seed)
    found, plan = b"", begin.encode()
    while len(found) < 3000:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [token for token in range(257) if mask[token // 8] >> (token % 8) & 1]
        if 256 in allowed and (len(allowed) == 1 or (not plan and dice.random() < 0.3)):
            return found.decode()
        plan = plan or dice.choice(pieces).encode()
        if plan[0] not in allowed:
            plan = bytes([dice.choice([token for token in allowed if 32 <= token < 127] or allowed[:1])])
        matcher.consume_token(plan[0])
        found, plan = found + plan[:1], plan[1:]
    return None


@pytest.mark.parametrize("form", FORMS)
def test_each_text_that_a_grammar_allows_is_read_as_the_arguments_that_it_holds(form: str) -> None:
    """Of strings any is valid, so what could be wrong are the names of arguments, or text around the call."""
    found_format = format_of(form, "")
    assert found_format is not None
    properties = {
        "text": {"type": "string"},
        "many": {"type": "array", "items": {"type": "string"}},
        "last": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    function = Function(name="f", parameters=schema, strict=True)
    whole = 0
    for forced in (True, False):
        pieces = [each for each in parts_of(form) if each not in "[{" and (forced or each not in OPENING)]
        use = ToolUse(found_format, [function], {}, forced=forced, single=True)
        for seed in range(40):
            begin = "" if forced else found_format.marks[0]
            answer = walked(use.grammar(), [*pieces, tail_of(form)[: tail_of(form).index(">") + 1]], begin, seed)
            if answer is None:
                continue
            whole += 1
            delta = TextDelta(answer, finish="stop")
            use.reader().read(delta)
            assert delta.calls, answer
            ((name, arguments),) = calls_of(delta)
            assert (name, [*arguments], delta.unparsed) == ("f", [*properties], 0), answer
            assert isinstance(arguments["many"], list), answer
    assert whole > 20


@pytest.mark.parametrize("form", FORMS)
def test_a_call_of_a_function_that_is_not_strict_may_hold_any_element(form: str) -> None:
    found_format = format_of(form, "")
    assert found_format is not None
    tools = [Function(name="f"), Function(name="g", parameters={"type": "object", "properties": {}}, strict=True)]
    end = [each for each in ("</function>", "</tool_call>", "</invoke>") if each in all_of(form, EMPTY)]
    for value in ["plain", "\n\n", *end, "a </parameter> b", "a < b"]:
        text = all_of(form, ("f", {"text": value, "count": 7})) if value else all_of(form, ("f", {}))
        matcher = LLMatcher(_bytes(), chosen(found_format, tools, {}, single=True), log_level=0)
        assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode()), matcher.get_error()
        assert matcher.is_accepting()


@pytest.mark.parametrize("least", [0, 1])
def test_an_empty_text_ends_at_once(least: int) -> None:
    """A closing element at the begin of a text is its end, though templates write an empty line before it."""
    form = format_of("qwen3_coder", "")
    assert form is not None
    properties = {"a": {"type": "string", "minLength": least}}
    schema = {"type": "object", "properties": properties, "required": ["a"]}
    use = ToolUse(form, [Function(name="f", parameters=schema)], {}, forced=True, single=True)
    text = "<tool_call>\n<function=f>\n<parameter=a>\n</parameter>\n</function>\n</tool_call>"
    matcher = LLMatcher(_bytes(), use.grammar(), log_level=0)
    taken = matcher.try_consume_tokens(list(text.encode()))
    assert (taken == len(text)) == (not least)
    assert least == 0 or text[:taken].endswith("</parameter")


def test_the_form_that_says_what_is_a_text_holds_schemas_that_others_refuse() -> None:
    properties: dict[str, Any] = {
        "either": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}, {"type": "object"}]},
        "listed": {"enum": ["1", 1, None]},
        "any": {},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    function = Function(name="f", parameters=schema)
    for form in FORMS[:3]:
        found_format = format_of(form, "")
        assert found_format is not None
        with pytest.raises(NotHeld):
            ToolUse(found_format, [function], {}, forced=True, single=True).grammar()
    found_format = format_of("deepseek_v32", "")
    assert found_format is not None
    use = ToolUse(found_format, [function], {}, forced=True, single=True)
    allowed: list[list[Any]] = [["1", "1", "1"], [3, 1, 1], [{}, None, [1]], ["", "1", ""]]
    for values in allowed:
        arguments = dict(zip(properties, values, strict=True))
        text = dsml(("f", arguments))
        matcher = LLMatcher(_bytes(), use.grammar(), log_level=0)
        assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode()), matcher.get_error()
        delta = TextDelta(text, finish="stop")
        use.reader().read(delta)
        assert calls_of(delta) == [("f", arguments)]
    for wrong in ({"either": 2}, {"listed": 2}, {"listed": "2"}):
        text = dsml(("f", {"either": "x", "listed": 1, "any": ""} | wrong))
        matcher = LLMatcher(_bytes(), use.grammar(), log_level=0)
        assert matcher.try_consume_tokens(list(text.encode())) < len(text.encode())


class _Counting:
    """A form that counts how often it is asked for an end."""

    def __init__(self, form: ToolCallFormat) -> None:
        self._form, self.asked = form, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._form, name)

    def end(self, block: str) -> int | None:
        self.asked += 1
        return self._form.end(block)


@pytest.mark.parametrize("form", [*FORMS, "kimi_k2", "deepseek_v31"])
def test_the_end_is_searched_for_only_behind_new_marks(form: str) -> None:
    """A long value that holds an end would be read again with each token."""
    found_format = format_of(form, "")
    assert found_format is not None
    calls = [("f", {"text": f"a {found_format.end_marks[-1]} b" + "x" * 500})]
    counting = _Counting(found_format)
    found = read(Reader(cast("ToolCallFormat", counting), TOOLS), [*all_of(form, *calls)])
    assert calls_of(found) == calls
    assert counting.asked < 100
