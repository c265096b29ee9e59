"""Reads numbers as people and models write them, LaTeX included."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

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
_DIGITS = rf"(?:{_LAKHS}|{_THOUSANDS}|\d+)(?:\.\d+)?|\.\d+"
_TIMES = r"(?:\\times|\\cdot|[\u00d7\u00b7*])"
_TEN_TO = rf"\s?{_TIMES}\s?10\s?\^\s?\{{?{_MINUS}?\d+\}}?"
_EXPONENT = rf"(?:[eE](?:\+|{_MINUS})?\d+(?!\w)|{_TEN_TO})?"
_SIGN = rf"(?:\+|{_MINUS})"
_BEFORE = rf"(?:(?<![\w.\])]){_SIGN}{_CURRENCY}?|{_CURRENCY}{_SIGN}?)?"
PATTERN = rf"{_BEFORE}(?<![\d.])(?:{_DIGITS}){_EXPONENT}(?:\s?\\?%)?"
"""A regular expression, without groups, for one number in a text.

A hyphen behind a letter, a digit or a bracket is none of its sign: the last number of "pages 3-5" is 5.
"""

_WHOLE = re.compile(PATTERN)
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
        value = Decimal(_plain_digits(plain))
    except InvalidOperation:
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
    text = re.sub(_MINUS, "-", re.sub(rf"(?:\\?%|\s|{_CURRENCY})", "", text))
    text = re.sub(rf"{_TIMES}10\^\{{?(-?\d+)\}}?", r"e\1", text)
    return re.sub(r"[^\d.eE+-]", "", text)
