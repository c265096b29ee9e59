from __future__ import annotations

import pytest

from launcher.tasks.compare import Match, Normalize, matchable, normalized, right


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        (Normalize.strip, " a b\n", "a b"),
        (Normalize.lower, "Paris", "paris"),
        (Normalize.punctuation, "U.S.-based!", "USbased"),
        (Normalize.punctuation, "1,000.5 and 3. ¿Qué? naïve", "1000.5 and 3 Qué naïve"),
        (Normalize.hyphens, "Rock-n-roll\u2013and/or_so", "Rock n roll and or so"),
        (Normalize.unicode, "Hobson\u2019s \u201cPa\u200bris\u201d \uff21\u2212\u00ad1", 'Hobson\'s "Paris" A-1'),
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
        (Match.contains, "it is 1.5", "1", False),
        (Match.contains, "it is 1.5", "5", False),
        (Match.contains, "it is 1,000", "1", False),
        (Match.contains, "it is 1.", "1", True),
        (Match.contains, "1, 2", "1", True),
        (Match.numeric, "1,000.0", "1000", True),
        (Match.numeric, "10", "1", False),
        (Match.numeric, "x", "x", False),
    ],
)
def test_match(match, prediction, target, expected):
    assert right(prediction, ["other", target], match) is expected


@pytest.mark.parametrize(
    ("match", "target", "expected"),
    [
        (Match.numeric, "", False),
        (Match.numeric, "seven", False),
        (Match.numeric, "1,2", False),
        (Match.numeric, "1,200", True),
        (Match.contains, "", False),
        (Match.contains, "x", True),
        (Match.exact_match, "", True),
    ],
)
def test_some_targets_match_no_answer(match, target, expected):
    assert matchable(target, match) is expected
