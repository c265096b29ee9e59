"""Reads which lettered choice an answer names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_MARKS = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*(?=\{)|[*_`{}$]|\\[()\[\]]")
_LETTER = r"[(\[\"'“‘<]?(?P<letter>[A-Z])[)\]\"'”’>]?"
_SECOND = r"\s*(?:/|,|&|\bor\b|\band\b|\bor either\b)\s*(?:or\s+|and\s+)?[(\[]?[A-Z]\b(?![\w'’])"
_ONE = rf"{_LETTER}(?![\w'’])(?!{_SECOND})"
"""A letter that is no part of a word, and without a second one behind it, as in "A or B"."""
_REASON = r"because\b|since\b|as\b|for\b|which\b|is (?:the )?(?:correct|right|best)\b"
_END = rf"(?=\s*(?:$|[.,;:!?)\]\n–—]|- |\(|{_REASON}))"
"""What follows a letter that is no word of its sentence: "The answer is A cat" names no choice."""
_KEY = r"(?:answer|option|choice|antwort|respuesta|réponse|risposta|resposta)(?:\s+(?:choice|option|letter))?"
_IS = r"\s*(?:is|be|would be|should be|must be|ist|es|est|è|é|:|=|->|→)"
_SURELY = r"therefore|thus|clearly|definitely|probably|most likely|likely|indeed|simply|just"
_FILLER = rf"\s*(?:{_SURELY}|option|choice|letter)\b,?:?"
_I_SAY = r"i(?:'d| would| will)?\s+(?:choose|pick|select|say|go with|go for)|it(?:'s| is| must be| should be)"
_CJK_KEY = r"(?:答案|答え|正解|정답)\s*(?:应该)?(?:是|为|は|은|는)?\s*[:：]?"
_STATEMENTS = (
    re.compile(rf"\b(?i:{_KEY})(?i:{_IS}|\s)(?i:{_IS}|{_FILLER}){{0,4}}\s*{_ONE}{_END}"),
    re.compile(rf"{_CJK_KEY}\s*{_ONE}"),
    re.compile(rf"\b(?i:{_I_SAY}|choose|pick|select)(?i:{_FILLER})?\s*{_ONE}{_END}"),
    re.compile(rf"(?<![\w'’]){_LETTER}[.:]?\s+is\s+(?:the\s+)?(?:only\s+)?(?:correct|right|best|answer)\b"),
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WHOLE = re.compile(r"\s*[(\[\"'“‘<]?(?P<letter>[A-Za-z])[.:]?[)\]\"'”’>]?[.:!]?\s*")
_START = re.compile(
    r"\s*(?:(?i:option|choice|answer)\s+)?"
    r"(?:[(\[](?P<letter>[A-Z])[)\]]|(?P<bare>[A-Z])(?:[).:,;]|\s+[-–—:](?=\s)))(?=\s|$)"
)
_LISTED = re.compile(r"(?<![\w'’])([A-Z])(?:[)\].:,;]|\s*$)")
_MARKED = re.compile(r"\(([A-Z])\)|\[([A-Z])\]|\*\*\(?([A-Z])[).:]?\*\*")


def letter_of(answer: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that an answer names, A for the first; None if it names none or several.

    The first of these decides: the last ``\\boxed{}``; the last statement such as "The answer is B". Then the whole
    answer, its first or its last line, if that is or begins with a letter ("B", "(b)", "B. Paris"), or is the text of
    one choice. At the end, the only letter in parentheses or bold. A letter that may be a word, such as the A of "A
    cat", is none.
    """
    text = unicodedata.normalize("NFKC", answer)
    boxed = _BOXED.findall(text)
    if boxed:
        return _short_answer(_plain(boxed[-1]), choices)
    plain = _plain(text)
    stated = [found for rule in _STATEMENTS for found in rule.finditer(plain)]
    if stated:
        return _known(max(stated, key=lambda found: found.start("letter"))["letter"], choices)
    lines = [line for line in plain.split("\n") if line.strip()]
    is_list = len({found["letter"] or found["bare"] for line in lines if (found := _START.match(line))}) > 1
    for part in dict.fromkeys([*([] if is_list else [plain, *lines[:1]]), *lines[-1:]]):
        if not is_list or _WHOLE.fullmatch(part):
            index = _short_answer(part, choices)
            if index is not None:
                return index
    return _only_marked(text, choices)


def _plain(text: str) -> str:
    """Return a text without the marks of Markdown and LaTeX."""
    return _MARKS.sub("", text).strip()


def _short_answer(text: str, choices: Sequence[str]) -> int | None:
    """Return the choice of a text that is nothing but an answer: a letter, a letter and more, or a choice's words."""
    whole = _WHOLE.fullmatch(text)
    if whole:
        return _known(whole["letter"].upper(), choices)
    same = [index for index, choice in enumerate(choices) if _words(choice) == _words(text) != ""]
    if same:
        return same[0] if len(same) == 1 else None
    start = _START.match(text)
    if start:
        letter = start["letter"] or start["bare"]
        return _known(letter, choices) if set(_LISTED.findall(text[start.end() :])) <= {letter} else None
    lettered = re.fullmatch(r"\s*\(?([A-Z])\)?\s+(.+)", text, re.DOTALL)
    index = _known(lettered[1], choices) if lettered else None
    return index if lettered and index is not None and _words(lettered[2]) == _words(choices[index]) else None


def _words(text: str) -> str:
    return " ".join(re.sub(r"[^\w%+\-/.]|\.(?!\d)", " ", _plain(text).casefold()).split())


def _only_marked(text: str, choices: Sequence[str]) -> int | None:
    found = {letter for groups in _MARKED.findall(text) for letter in groups if letter}
    return _known(found.pop(), choices) if len(found) == 1 else None


def _known(letter: str, choices: Sequence[str]) -> int | None:
    index = ord(letter) - ord("A")
    return index if index < len(choices) else None
