from __future__ import annotations

from decimal import Decimal

import pytest

from launcher.tasks.compare import Match, Normalize, normalized, number, right


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), (" 1,200.50 ", "1200.5"), ("$3", 3), ("-4.", -4), ("50%", 50), ("1e3", 1000), ("12 apples", None),
     ("", None), ("nan", None), ("inf", None), ("1.2.3", None)],
)  # fmt: skip
def test_number(text, value):
    assert number(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        (Normalize.strip, " a b\n", "a b"),
        (Normalize.lower, "Paris", "paris"),
        (Normalize.punctuation, "U.S.-based!", "USbased"),
        (Normalize.articles, "The cat and a dog", "  cat and   dog"),
        (Normalize.whitespace, " a \n b ", "a b"),
        (Normalize.number, "$1,200.50", "1200.5"),
        (Normalize.number, "100", "100"),
        (Normalize.number, "0.00", "0"),
        (Normalize.number, "about 3", "about 3"),
    ],
)
def test_normalize(step, text, expected):
    assert normalized(text, [step]) == expected


def test_steps_are_applied_in_order():
    assert (
        normalized(" The U.S. ", [Normalize.lower, Normalize.punctuation, Normalize.articles, Normalize.strip]) == "us"
    )


@pytest.mark.parametrize(
    ("match", "prediction", "target", "expected"),
    [
        (Match.exact_match, "a", "a", True),
        (Match.exact_match, "a", "A", False),
        (Match.contains, "it is paris.", "paris", True),
        (Match.contains, "comparison", "paris", False),
        (Match.contains, "12", "1", False),
        (Match.contains, "c++ is it", "c++", True),
        (Match.contains, "anything", "", False),
        (Match.numeric, "1,000.0", "1000", True),
        (Match.numeric, "10", "1", False),
        (Match.numeric, "x", "x", False),
    ],
)
def test_match(match, prediction, target, expected):
    assert right(prediction, ["other", target], match) is expected
