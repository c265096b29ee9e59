"""Values are those of ``json``, to the last digit and for any text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core import exact_json
from launcher.core.records import from_line, to_line
from tests.sample_records import made

NUMBERS = st.one_of(st.integers(), st.integers(-(2**70), 2**70), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(st.characters(exclude_categories=()))),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)
TOKENS = [
    "1",
    "9" * 19,
    "0." + "1" * 25,
    "-",
    "e30",
    "E-400",
    "NaN",
    "Infinity",
    '"',
    "\\ud83d",
    "[",
    "]",
    ",",
    " ",
    "\ufeff",
]


def same(one, other):
    """Compare values as JSON would write them, so that 1 and 1.0 and True differ, and NaN equals itself."""
    return json.dumps(one) == json.dumps(other)


@given(VALUES, st.booleans(), st.sampled_from([None, (",", ":")]))
def test_any_value_is_read_as_json_reads_it(value, ascii_only, separators):
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "backslashreplace")
    assert same(exact_json.loads(text), json.loads(text))


@given(st.lists(st.sampled_from(TOKENS), max_size=8).map("".join))
def test_any_text_is_read_or_refused_as_json_does(text):
    data = text.encode()
    try:
        expected = json.loads(data)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  (the message is that of json)
            exact_json.loads(data)
        return
    assert same(exact_json.loads(data), expected)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30, 2**53 + 1, 0.1, 5e-324, -0.0, math.inf, "\ud800"])
def test_what_orjson_would_change_is_exact(value):
    assert same(from_line(to_line(made("t/a/0", prediction=value))).prediction, value)


@given(VALUES)
def test_any_value_is_written_as_json_writes_it(value):
    text = exact_json.dumps(value)
    assert json.dumps(json.loads(text)) == json.dumps(json.loads(json.dumps(value)))


@pytest.mark.parametrize("before", range(12))
@pytest.mark.parametrize("number", [10**18, -(10**18), 2**64, 10**30 + 1])
def test_a_long_integer_is_seen_wherever_it_begins(before, number):
    data = b" " * before + b'{"a": [%d, 12]}' % number
    assert exact_json.may_have_long_integers(data)
    assert exact_json.loads(data) == {"a": [number, 12]}


@pytest.mark.parametrize("value", [{1: "a"}, "\ud800", 1 << 70, (1, 2), math.nan, {"a": [math.inf, None]}])
def test_what_orjson_writes_otherwise_or_not_at_all_is_written(value):
    assert json.dumps(json.loads(exact_json.dumps(value))) == json.dumps(json.loads(json.dumps(value)))


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError):
        exact_json.dumps({"a": {1, 2}})
