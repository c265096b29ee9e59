"""Finds rules of a Lark grammar that lead to themselves without end, so that no text can match them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from launcher.api.endless import all_ending

WORD = re.compile(
    r"""(?P<space>[ \t\r\n]+|//[^\n]*|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?|/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*|<[^>\n]*>|@[\w.-]+)
    |(?P<json>%(?:json|regex)\s*(?=\{))
    |(?P<skipped>%(?:ignore|import|llguidance)\b[^\n]*)
    |(?P<rule>[?!]?[A-Za-z_]\w*(?:\.-?\d+)?(?:\[[^\]\n]*\])?[ \t]*:(?!:))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<repeat>[?*+]|\{\d*,?\d*\}|~\s*\d+(?:\s*\.\.\s*\d+)?)
    |(?P<sign>[()\[\]|]|\.\.|&|~)""",
    re.VERBOSE,
)
NONE = re.compile(r"[?*]|\{,.*|\{0.*|~\s*0.*")
"""Repetitions that may be none."""
MOST = 100_000
"""So many characters of a grammar are read."""
Word = tuple[str, str]
Rules = Mapping[str, Sequence[Word]]


def dead_rule(grammar: str) -> str | None:
    """Return the name of a rule in use that no finite text matches, since it leads to itself.

    None if each rule can end, or for a syntax that is not known here.
    """
    try:
        rules = _rules(grammar[:MOST])
        ending = _ending(rules)
    except (ValueError, RecursionError):
        return None
    used = {"start", *_reached(rules, "start", rules)}
    dead = [name for name in rules if name in used and name not in ending]
    return next((name for name in dead if name in _reached(rules, name, dead)), None)


def _rules(grammar: str) -> dict[str, list[Word]]:
    """Return the words of each rule. Raises `ValueError` for a syntax that is not known."""
    rules: dict[str, list[Word]] = {}
    words: list[Word] | None = None
    for kind, text in _words(grammar):
        if kind == "rule":
            words = rules.setdefault(re.split(r"[\s.\[:]", text.lstrip("?!"), maxsplit=1)[0], [])
        elif words is None:
            raise ValueError(f"{text!r} before the first rule")
        else:
            words.append((kind, text))
    return rules


def _words(grammar: str) -> Iterator[Word]:
    at = 0
    while at < len(grammar):
        found = WORD.match(grammar, at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"{grammar[at : at + 10]!r} is not known")
        at, kind = found.end(), found.lastgroup
        if kind == "json":
            at = json.JSONDecoder().raw_decode(grammar, at)[1]
            yield "text", "json"
        elif kind not in ("space", "skipped"):
            yield kind, found[0]


def _ending(rules: Rules) -> set[str]:
    """Return the rules that some finite text matches."""
    return all_ending(rules, lambda name, known: _Ends(rules[name], rules, known).of())


class _Ends:
    """Whether what a rule says can end, by the rules that are known to."""

    def __init__(self, words: Sequence[Word], rules: Rules, ending: set[str]) -> None:
        self._words, self._rules, self._ending = [*words, ("end", "")], rules, ending
        self._at = 0

    def of(self) -> bool:
        found = self._alternatives()
        if self._next()[0] != "end":
            raise ValueError("a bracket too many")
        return found

    def _next(self) -> Word:
        return self._words[self._at]

    def _alternatives(self) -> bool:
        found = self._sequence()
        while self._next() == ("sign", "|"):
            self._at += 1
            found = self._sequence() or found
        return found

    def _sequence(self) -> bool:
        found = True
        while self._next()[0] != "end" and self._next()[1] not in (")", "]", "|"):
            found = self._item() and found
        return found

    def _item(self) -> bool:
        (kind, text), self._at = self._next(), self._at + 1
        found = True
        if text in ("(", "[") and kind == "sign":
            found = self._alternatives() or text == "["
            if self._next()[1] != {"(": ")", "[": "]"}[text]:
                raise ValueError("a bracket too few")
            self._at += 1
        elif kind == "name":
            found = text not in self._rules or text in self._ending
        while self._next()[0] == "repeat":
            found = found or NONE.fullmatch(self._next()[1]) is not None
            self._at += 1
        return found


def _reached(rules: Rules, start: str, within: Collection[str]) -> set[str]:
    """Return the rules that a rule leads to, itself only if something leads back to it."""
    found: set[str] = set()
    todo = [start]
    while todo:
        for kind, text in rules.get(todo.pop(), ()):
            if kind == "name" and text in within and text not in found:
                found.add(text)
                todo.append(text)
    return found
