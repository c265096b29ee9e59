from __future__ import annotations

import random
import re
import string
from collections import Counter

import pytest

from launcher.core.errors import UserError
from launcher.tasks.bounded import TooSlow
from launcher.tasks.compare import Match, Normalize, agreement, best, matches, normalized, unmatchable


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
        (Match.numeric, "3/4", "0.75", True),
        (Match.starts_with, "paris, of course", "paris", True),
        (Match.starts_with, " paris", "paris", True),
        (Match.starts_with, "parisian", "paris", False),
        (Match.starts_with, "in paris", "paris", False),
        (Match.starts_with, "1.5", "1", False),
        (Match.regex, "the year 1969", r"\b19\d\d\b", True),
        (Match.regex, "the year 2069", r"\b19\d\d\b", False),
    ],
)
def test_match(match, prediction, target, expected):
    assert best(prediction, ["other", target], match) == float(expected)


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
        (Match.regex, "(", False),
        (Match.regex, "a|b", True),
        (Match.f1, " ", False),
        (Match.starts_with, "x", True),
    ],
)
def test_some_targets_match_no_answer(match, target, expected):
    assert (unmatchable(target, match) is None) is expected


async def test_a_slow_regular_expression_ends():
    with pytest.raises(TooSlow):
        await agreement("a" * 60, ["(a+)+$b"], Match.regex)


@pytest.mark.parametrize(
    ("given", "words"),
    [("exact", "match='exact'; expected one or more of exact_match, contains"), ([], "match="), (None, "match=None")],
)
def test_a_metric_that_there_is_not_is_refused(given, words):
    with pytest.raises(UserError, match=re.escape(words)):
        matches(given)


def test_several_metrics_are_named_once_each():
    assert matches(["f1", "exact_match"]) == (Match.f1, Match.exact_match)
    with pytest.raises(UserError, match="names one metric twice"):
        matches(["f1", "f1"])


def test_the_normalisations_and_f1_of_squad_and_triviaqa_are_those_of_the_official_scripts():
    """Compares with the functions of SQuAD 1.1 and TriviaQA, written down here."""
    draw, words = (
        random.Random(0),
        ["The", "a", "U.S.", "B-2", "Fo'o", "bar_baz", "‘x’", "1,000", "(and)", "an", "Über"],
    )
    for _ in range(200):
        one, two = (" ".join(draw.choices(words, k=draw.randrange(1, 6))) for _ in range(2))
        assert normalized(one, [Normalize.squad]) == squad_normalize(one)
        assert normalized(one, [Normalize.triviaqa]) == triviaqa_normalize(one)
        said, right = normalized(one, [Normalize.squad]), normalized(two, [Normalize.squad])
        assert best(said, [right], Match.f1) == pytest.approx(squad_f1(one, two))


def squad_normalize(text):
    lowered = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())


def triviaqa_normalize(text):
    excluded = set(string.punctuation + "".join(["‘", "’", "´", "`"]))
    lowered = "".join(c if c not in excluded else " " for c in text.replace("_", " ").lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split()).strip()


def squad_f1(prediction, truth):
    predicted, right = squad_normalize(prediction).split(), squad_normalize(truth).split()
    same = sum((Counter(predicted) & Counter(right)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(right)
    return (2 * precision * recall) / (precision + recall)
