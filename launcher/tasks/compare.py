"""Compares a prediction with the answers that are right."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from enum import Enum


class Match(Enum):
    """What makes a prediction right; also the metric's name.

    ``exact_match``: equal to an answer. ``contains``: an answer stands in it as whole words. ``numeric``: the same
    number as an answer, however it is written (1,000 = 1000.0).
    """

    exact_match = "exact_match"
    contains = "contains"
    numeric = "numeric"


class Normalize(Enum):
    """Steps that normalize predictions and targets before the comparison.

    ``strip``: surrounding white space. ``lower``: case. ``punctuation``: the characters of ``string.punctuation`` are
    removed. ``articles``: the words a, an, the are removed. ``whitespace``: runs of white space become one space.
    ``number``: a text that is a number takes its plainest form ("$1,200.50" becomes "1200.5").
    """

    strip = "strip"
    lower = "lower"
    punctuation = "punctuation"
    articles = "articles"
    whitespace = "whitespace"
    number = "number"


def number(text: str) -> Decimal | None:
    """Return the number that ``text`` is, without currency signs, thousands separators, % and a final full stop."""
    plain = text.strip().removesuffix(".").removesuffix("%").lstrip("$€£").replace(",", "")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def normalized(text: str, steps: Sequence[Normalize]) -> str:
    """Apply the steps in order."""
    for step in steps:
        text = _STEPS[step](text)
    return text


def right(prediction: str, targets: Sequence[str], match: Match) -> bool:
    """Return whether a normalized prediction agrees with one of the normalized targets."""
    return any(_MATCHES[match](prediction, target) for target in targets)


def _plainest(text: str) -> str:
    value = number(text)
    if value is None:
        return text
    return f"{value.normalize():f}" if value else "0"


def _holds(prediction: str, target: str) -> bool:
    return bool(target) and re.search(rf"(?<!\w){re.escape(target)}(?!\w)", prediction) is not None


def _same_number(prediction: str, target: str) -> bool:
    wanted = number(target)
    return wanted is not None and number(prediction) == wanted


_STEPS: dict[Normalize, Callable[[str], str]] = {
    Normalize.strip: str.strip,
    Normalize.lower: str.lower,
    Normalize.punctuation: lambda text: text.translate(str.maketrans("", "", string.punctuation)),
    Normalize.articles: lambda text: re.sub(r"\b(a|an|the)\b", " ", text, flags=re.IGNORECASE),
    Normalize.whitespace: lambda text: " ".join(text.split()),
    Normalize.number: _plainest,
}
_MATCHES: dict[Match, Callable[[str, str], bool]] = {
    Match.exact_match: str.__eq__,
    Match.contains: _holds,
    Match.numeric: _same_number,
}
