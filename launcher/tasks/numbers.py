"""Reads numbers as people and models write them, LaTeX included."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, DivisionByZero, InvalidOperation

MAX_CHARACTERS = 400
"""A longer text is taken for no number."""
MAX_EXPONENT = 400
"""Numbers of more digits before or behind the point are taken for none: writing them out would fill the memory."""

_SEPARATORS = (",", r"\{,\}", r"\\[,;:! ]", " ", "[\u00a0\u2009\u202f\u2007]", "['\u2019]", r"\{\\,\}")
"""What stands between thousands: a comma, LaTeX's, a space, a narrow space, an apostrophe."""
_MINUS = "[-\u2212\u2012\u2013]"
_CURRENCY = r"(?:\\?[$€£¥₹]\s?)"
_THOUSANDS = "|".join(rf"\d{{1,3}}(?:{separator}\d{{3}})+(?!\d)" for separator in _SEPARATORS)
_LAKHS = r"\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"
_EUROPEAN = r"\d{1,3}(?:(?:\.\d{3}){2,}(?:,\d+)?|\.\d{3},\d+|(?:[ \u00a0\u202f]\d{3})+,\d{1,2})(?![\d.,]*\d)"
"""Points or spaces between thousands, a comma before the decimals. A comma alone is no decimal one: 1,2 is a pair."""
_DIGITS = rf"(?:{_EUROPEAN}|(?:{_LAKHS}|{_THOUSANDS}|\d+)(?:\.\d+)?|\.\d+)"
_VULGAR = "[\u00bc-\u00be\u2150-\u215e]"
_LATEX_FRACTION = r"\\[dt]?frac\s?(?:\{\s?\d{1,15}\s?\}\s?\{\s?\d{1,15}\s?\}|\d\d)"
_SLASHED = r"\d{1,15}\s?[/\u2044]\s?\d{1,15}(?!\s?/\s?\d)(?![\d.,]*\d|\w)"
_FRACTION = rf"(?:(?:\d{{1,3}}(?: |\\[,;: ])?)?(?:{_LATEX_FRACTION}|{_VULGAR})|(?<!/)(?<!/ )(?:\d{{1,3}} )?{_SLASHED})"
"""3/4, 1 1/2, LaTeX's fractions and single characters; 1/2/2024 is a date."""
_TIMES = r"(?:\\times|\\cdot|[\u00d7\u00b7*])"
_TEN_TO = rf"\s?{_TIMES}\s?10\s?\^\s?\{{?{_MINUS}?\d+\}}?"
_EXPONENT = rf"(?:[eE](?:\+|{_MINUS})?\d+(?!\w)|{_TEN_TO})?"
_SIGN = rf"(?:\+|{_MINUS})"
_BEFORE = rf"(?:(?<![\w.\])]){_SIGN}{_CURRENCY}?|{_CURRENCY}{_SIGN}?)?"
PATTERN = rf"{_BEFORE}(?<![\d.])(?:{_FRACTION}|{_DIGITS}{_EXPONENT})(?:\s?\\?%)?"
"""A regular expression, without groups, for one number in a text.

A hyphen behind a letter, a digit or a bracket is none of its sign: the last number of "pages 3-5" is 5.
"""

_WHOLE = re.compile(PATTERN)
_IS_FRACTION = re.compile(rf"frac|/|\u2044|{_VULGAR}")
_IS_EUROPEAN = re.compile(rf"{_BEFORE}{_EUROPEAN}")
_WRAPPERS = (
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("$$", "$$"),
    ("**", "**"),
    ("`", "`"),
)
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def parse(text: str) -> Decimal | None:
    """Return the number that ``text`` is, None if it is none or more than one.

    Currency signs, thousands separators, %, a final full stop, and marks of LaTeX and Markdown around it do not count.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    plain = _unwrapped(text.translate(_INVISIBLE).strip())
    if _WHOLE.fullmatch(plain) is None:
        return None
    try:
        value = _fraction(plain) if _IS_FRACTION.search(plain) else Decimal(_plain_digits(plain))
    except (InvalidOperation, DivisionByZero):
        return None
    return value if value.is_finite() and abs(value.adjusted()) <= MAX_EXPONENT else None


def write(value: Decimal) -> str:
    """Return the plainest form of a number: no exponent, no zeros at the end."""
    return f"{value.normalize():f}" if value else "0"


def _unwrapped(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = text.strip().rstrip(".,;:!").strip()
        for start, end in _WRAPPERS:
            if text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end):
                text = text[len(start) : len(text) - len(end)]
        if text.endswith("$") and not text.endswith("\\$"):
            text = text[:-1]
    return text


def _plain_digits(text: str) -> str:
    """Return what Python reads as a number."""
    if found := _IS_EUROPEAN.match(text):
        text = found[0].replace(".", "").replace(",", ".") + text[found.end() :]
    text = re.sub(_MINUS, "-", re.sub(rf"(?:\\?%|\s|{_CURRENCY})", "", text))
    text = re.sub(rf"{_TIMES}10\^\{{?(-?\d+)\}}?", r"e\1", text)
    return re.sub(r"[^\d.eE+-]", "", text)


def _fraction(text: str) -> Decimal:
    """Return the value of a fraction, also of a mixed number; one without an end is rounded to 28 digits."""
    plain = re.sub(_VULGAR, lambda found: " " + unicodedata.normalize("NFKC", found[0]), re.sub(_MINUS, "-", text))
    plain = re.sub(r"frac\s?(\d)(\d)", r" \1 / \2", re.sub(r"\}\s?\{", " / ", plain))
    parts = [int(part) for part in re.findall(r"\d+", plain)]
    value = sum(map(Decimal, parts[:-2])) + Decimal(parts[-2]) / parts[-1]
    return -value if "-" in plain else value
