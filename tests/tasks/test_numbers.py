"""Numbers are read as people and models write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.tasks.extraction import Extraction, Pick, extract, find
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
    await extract(Extraction("", "{number}", Pick.last, None), text)  # it raises TooSlow otherwise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/4", "0.75"),
        ("-3 / 4", "-0.75"),
        ("1 1/2", "1.5"),
        ("\\frac{3}{4}", "0.75"),
        ("$-\\dfrac{1}{2}$", "-0.5"),
        ("\\boxed{1\\tfrac12}", "1.5"),
        ("\u00bd", "0.5"),
        ("2 \u00be", "2.75"),
        ("1.234,56", "1234.56"),
        ("\u20ac1.234.567", "1234567"),
        ("12 345,6", "12345.6"),
    ],
)
def test_fractions_and_decimal_commas(text: str, expected: str) -> None:
    assert parse(text) == Decimal(expected)
    assert last_number(f"It is {text}.") == Decimal(expected)


@pytest.mark.parametrize("text", ["1/0", "0/0", "1/2/2024", "1,2", "3,14", "1.2.3", "1/2/", "frac12", "/2", "1//2"])
def test_what_is_no_single_number_stays_so(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "last"), [("12/3 = 4", "4"), ("on 12/25/2024", "2024"), ("pages 3-5", "5"), ("a 1/2, b 3", "3")]
)
def test_the_last_number_is_not_part_of_another(text: str, last: str) -> None:
    assert last_number(text) == Decimal(last)


def test_equal_fractions_are_equal() -> None:
    assert parse("2/6") == parse("1/3") != parse("0.333")


def last_number(text: str) -> Decimal | None:
    return parse(list(re.finditer(PATTERN, text))[-1][0])
