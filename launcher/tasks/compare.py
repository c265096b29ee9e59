"""Compares a prediction with the answers that are right."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from enum import Enum

from launcher.tasks import numbers


class Match(Enum):
    """What makes a prediction right; also the metric's name.

    ``exact_match``: equal to an answer. ``contains``: an answer stands in it as whole words and whole numbers (1 is not
    in 1.5). ``numeric``: the same number as an answer (1,000 = 1000.0).
    """

    exact_match = "exact_match"
    contains = "contains"
    numeric = "numeric"


class Normalize(Enum):
    """Steps that normalize predictions and targets before the comparison.

    ``unicode``: typographic quotes, dashes and compatibility characters become plain ones, and invisible characters
    are removed. ``strip``: surrounding white space. ``lower``: case. ``hyphens``: hyphens, slashes, underscores become
    spaces. ``punctuation``: punctuation and symbols of ``string.punctuation`` are removed, except a decimal point.
    ``articles``: the words a, an, the are removed. ``whitespace``: runs of white space become one space. ``number``: a
    text that is a number takes its plainest form ("$1,200.50" becomes "1200.5").
    """

    unicode = "unicode"
    strip = "strip"
    lower = "lower"
    hyphens = "hyphens"
    punctuation = "punctuation"
    articles = "articles"
    whitespace = "whitespace"
    number = "number"


def normalized(text: str, steps: Sequence[Normalize]) -> str:
    """Apply the steps in order."""
    for step in steps:
        text = _STEPS[step](text)
    return text


def right(prediction: str, targets: Sequence[str], match: Match) -> bool:
    """Return whether a normalized prediction agrees with one of the normalized targets."""
    return any(_MATCHES[match](prediction, target) for target in targets)


def matchable(target: str, match: Match) -> bool:
    """Return whether some prediction could agree with a normalized target."""
    if match is Match.numeric:
        return numbers.parse(target) is not None
    return match is Match.exact_match or bool(target)


_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u0060\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys(_DASHES, "-")
)
_HYPHENS = str.maketrans(dict.fromkeys("-/_" + _DASHES, " "))


def _plain_unicode(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    return "".join(character for character in plain if unicodedata.category(character) != "Cf")


def _without_punctuation(text: str) -> str:
    return re.sub(r"\.(?!(?<=\d\.)\d)|[^\w\s.]|_", _removed, text)


def _removed(found: re.Match[str]) -> str:
    """Return nothing for punctuation, and another character, such as an emoji or an accent, as it is."""
    character = found[0]
    punctuation = character in string.punctuation or unicodedata.category(character).startswith("P")
    return "" if punctuation else character


def _plainest(text: str) -> str:
    value = numbers.parse(text)
    return text if value is None else numbers.write(value)


def _holds(prediction: str, target: str) -> bool:
    before = r"(?<!\w)" + (r"(?<!\d[.,])" if target[:1].isdigit() else "")
    after = r"(?!\w)" + (r"(?![.,]\d)" if target[-1:].isdigit() else "")
    return bool(target) and re.search(before + re.escape(target) + after, prediction) is not None


def _same_number(prediction: str, target: str) -> bool:
    wanted = numbers.parse(target)
    return wanted is not None and numbers.parse(prediction) == wanted


_STEPS: dict[Normalize, Callable[[str], str]] = {
    Normalize.unicode: _plain_unicode,
    Normalize.strip: str.strip,
    Normalize.lower: str.lower,
    Normalize.hyphens: lambda text: text.translate(_HYPHENS),
    Normalize.punctuation: _without_punctuation,
    Normalize.articles: lambda text: re.sub(r"\b(a|an|the)\b", " ", text, flags=re.IGNORECASE),
    Normalize.whitespace: lambda text: " ".join(text.split()),
    Normalize.number: _plainest,
}
_MATCHES: dict[Match, Callable[[str, str], bool]] = {
    Match.exact_match: str.__eq__,
    Match.contains: _holds,
    Match.numeric: _same_number,
}
