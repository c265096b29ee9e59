"""Compares a prediction with the answers that are right."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.tasks import bounded, mathematics, numbers


class Match(Enum):
    """What makes a prediction right; also the metric's name. Of several answers, the best one counts.

    ``exact_match``: equal to an answer. ``contains``: an answer stands in it as whole words and whole numbers (1 is not
    in 1.5). ``starts_with``: it begins with an answer, as whole words. ``numeric``: the same number as an answer
    (1,000 = 1000.0, 3/4 = 0.75). ``regex``: an answer, as a regular expression, is found in it. ``f1``: the F1 of its
    words and those of an answer, from 0 to 1, as SQuAD and TriviaQA compute it. ``math_verify``: it means the same
    mathematics as an answer, by the package math-verify; in a longer text the last ``\\boxed`` or expression counts.
    """

    exact_match = "exact_match"
    contains = "contains"
    starts_with = "starts_with"
    numeric = "numeric"
    regex = "regex"
    f1 = "f1"
    math_verify = "math_verify"


class Normalize(Enum):
    """Steps that normalize predictions and targets before the comparison.

    ``unicode``: typographic quotes, dashes and compatibility characters become plain ones, and invisible characters
    are removed. ``strip``: surrounding white space. ``lower``: case. ``hyphens``: hyphens, slashes, underscores become
    spaces. ``punctuation``: punctuation and symbols of ``string.punctuation`` are removed, except a decimal point.
    ``articles``: the words a, an, the are removed. ``whitespace``: runs of white space become one space. ``number``: a
    text that is a number takes its plainest form ("$1,200.50" becomes "1200.5"). ``all_punctuation``: every character
    of ``string.punctuation`` is removed, as lm-evaluation-harness does for ``ignore_punctuation``.

    ``squad`` and ``triviaqa`` are the whole normalisation of the official scripts of these data sets.
    """

    unicode = "unicode"
    strip = "strip"
    lower = "lower"
    hyphens = "hyphens"
    punctuation = "punctuation"
    articles = "articles"
    whitespace = "whitespace"
    number = "number"
    all_punctuation = "all_punctuation"
    squad = "squad"
    triviaqa = "triviaqa"


def normalized(text: str, steps: Sequence[Normalize]) -> str:
    """Apply the steps in order."""
    for step in steps:
        text = _STEPS[step](text)
    return text


def matches(given: Json) -> tuple[Match, ...]:
    """Return what ``match`` says: one way to compare, or several. Raises `UserError` for anything else."""
    found = given if isinstance(given, list | tuple) else [given]
    names = [value.value if isinstance(value, Match) else value for value in found]
    known = [match.value for match in Match]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise UserError(f"tasks: match={(wrong or [given])[0]!r}; expected one or more of {', '.join(known)}")
    if len(set(names)) < len(names):
        raise UserError(f"tasks: match={names!r} names one metric twice")
    return tuple(map(Match, names))


def without(text: str, patterns: Sequence[str]) -> str:
    """Return a text without what any of the regular expressions matches, in their order."""
    for pattern in patterns:
        text = re.sub(pattern, "", text)
    return text


async def agreement(prediction: str, targets: Sequence[str], match: Match) -> float | None:
    """Return how well a normalized prediction agrees with the best of the normalized targets, from 0 to 1.

    None says that the prediction holds nothing that could be compared.

    Raises `bounded.TooSlow` where that takes too long.
    """
    if match is Match.math_verify:
        return await mathematics.agreement(prediction, targets)
    if match in _UNBOUNDED:
        return await bounded.run(best, prediction, targets, match, inline=True)
    return best(prediction, targets, match)


def best(prediction: str, targets: Sequence[str], match: Match) -> float:
    """Return what `agreement` does, without a limit of time."""
    return max(float(_MATCHES[match](prediction, target)) for target in targets)


def unmatchable(target: str, match: Match) -> str | None:
    """Return what a comparable target would have to be for some prediction to agree with it, None if one can."""
    if match is Match.numeric:
        return None if numbers.parse(target) is not None else "a number"
    if match is Match.regex:
        return None if target and is_regex(target) else "a regular expression"
    return None if match is Match.exact_match or target.strip() else "a text"


def is_regex(text: str) -> bool:
    """Return whether ``text`` is a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


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
    return bool(target) and re.search(before + _whole(target), prediction) is not None


def _starts(prediction: str, target: str) -> bool:
    return bool(target) and re.match(r"\s*" + _whole(target), prediction) is not None


def _whole(target: str) -> str:
    """Return a pattern for a text that ends with a whole word or number."""
    return re.escape(target) + r"(?!\w)" + (r"(?![.,]\d)" if target[-1:].isdigit() else "")


def _found(prediction: str, target: str) -> bool:
    return re.search(target, prediction) is not None


def _f1(prediction: str, target: str) -> float:
    """Return the F1 of two bags of words (SQuAD 1.1's and TriviaQA's ``f1_score``)."""
    said, right = prediction.split(), target.split()
    same = sum((Counter(said) & Counter(right)).values())
    return 2 * same / (len(said) + len(right)) if same else 0.0


def _same_number(prediction: str, target: str) -> bool:
    wanted = numbers.parse(target)
    return wanted is not None and numbers.parse(prediction) == wanted


def _squad(text: str) -> str:
    """Normalize as ``normalize_answer`` of SQuAD's evaluate-v1.1.py."""
    return _without_articles(text.lower().translate(_ASCII_PUNCTUATION))


def _triviaqa(text: str) -> str:
    """Normalize as ``normalize_answer`` of TriviaQA's evaluation script."""
    return _without_articles(text.replace("_", " ").lower().translate(_TRIVIAQA_PUNCTUATION)).strip()


def _without_articles(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRIVIAQA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))
_UNBOUNDED = {Match.regex}
"""What a user's input can make take any time."""
_STEPS: dict[Normalize, Callable[[str], str]] = {
    Normalize.unicode: _plain_unicode,
    Normalize.strip: str.strip,
    Normalize.lower: str.lower,
    Normalize.hyphens: lambda text: text.translate(_HYPHENS),
    Normalize.punctuation: _without_punctuation,
    Normalize.articles: lambda text: re.sub(r"\b(a|an|the)\b", " ", text, flags=re.IGNORECASE),
    Normalize.whitespace: lambda text: " ".join(text.split()),
    Normalize.number: _plainest,
    Normalize.all_punctuation: lambda text: text.translate(_ASCII_PUNCTUATION),
    Normalize.squad: _squad,
    Normalize.triviaqa: _triviaqa,
}
_MATCHES: dict[Match, Callable[[str, str], float]] = {
    Match.exact_match: str.__eq__,
    Match.contains: _holds,
    Match.starts_with: _starts,
    Match.numeric: _same_number,
    Match.regex: _found,
    Match.f1: _f1,
}
