"""Numbers are read as people and models write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.tasks.extraction import extract, find
from launcher.tasks.numbers import PATTERN, parse, write
from tests.fuzzing import examples

LAST = [
    ("The shop earned $9{,}500$ in all.", "9500"),
    ("\\boxed{12{,}000}", "12000"),
    ("It is $10\\,000$.", "10000"),
    ("It is 10 000.", "10000"),
    ("£3\u202f000", "3000"),
    ("1'000'000 francs", "1000000"),
    ("1,00,000 rupees", "100000"),
    ("The change is \u22125.", "-5"),
    ("The change is -$5.", "-5"),
    ("The change is $-5", "-5"),
    ("(-3)", "-3"),
    ("x = -.5", "-0.5"),
    ("It is 1.5e3", "1500"),
    ("3 \\times 10^{4}", "30000"),
    ("6 \u00d7 10^-2", "0.06"),
    ("about 50\\%", "50"),
    ("**42**", "42"),
    ("The pair is 1,2", "2"),
    ("pages 3-5", "5"),
    ("pages 3\u20135", "5"),
    ("f(2)-3", "3"),
    ("10-3 = 7", "7"),
    ("In 2020 100 people came", "100"),
    ("on 2021-10-05", "5"),
    ("12,34", "34"),
]


@pytest.mark.parametrize(("text", "value"), LAST)
def test_the_last_number_of_an_answer(text: str, value: str) -> None:
    found = find("{number}", text, last=True)
    assert found is not None
    number = parse(found)
    assert number is not None
    assert write(number) == value.replace("05", "5")


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", "12"), (" 1,200.50 ", "1200.5"), ("$3", "3"), ("-4.", "-4"), ("50%", "50"), ("1e3", "1000"),
     ("$9{,}500$", "9500"), ("\\(5\\)", "5"), ("\\boxed{5}.", "5"), ("5\u200b", "5"), ("-0", "0")],
)  # fmt: skip
def test_a_text_that_is_a_number(text: str, value: str) -> None:
    number = parse(text)
    assert number is not None
    assert write(number) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 apples",
        "nan",
        "inf",
        "Infinity",
        "1.2.3",
        "1,2",
        "3,4,5",
        "12,34",
        "1e999999999",
        "9" * 500,
        "seven",
        "-",
        "$",
    ],
)
def test_a_text_that_is_none(text: str) -> None:
    assert parse(text) is None


@settings(max_examples=examples(60), deadline=None)
@given(
    st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False, places=3), st.sampled_from(", \u202f\u2009'")
)
def test_a_number_is_read_as_it_was_written(value: Decimal, separator: str) -> None:
    text = f"{value:,f}".replace(",", separator)
    assert parse(text) == value
    found = find("{number}", f"So the answer is {text}.", last=True)
    assert found is not None
    assert parse(found) == value


@settings(max_examples=examples(60), deadline=None)
@given(st.text(alphabet="0123456789,. -$\\{}eE%'+^x", max_size=60))
def test_no_text_raises(text: str) -> None:
    for found in re.findall(PATTERN, text):
        parse(found)
    parse(text)


LONG = ["1" * 20_000, "1," * 10_000, "1 000" * 4_000, "$" * 20_000, "1e" * 10_000, " " * 20_000]


@pytest.mark.parametrize("text", LONG, ids=[text[:5].strip() or "spaces" for text in LONG])
async def test_a_long_answer_is_read_within_the_bound(text: str) -> None:
    await extract("{number}", text, last=True)  # it raises TooSlow otherwise
