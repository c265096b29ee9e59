"""Reads the choices of an item, and which of them is right."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json
from launcher.tasks.items import Item
from launcher.tasks.template import check_template, is_template, render, text, value

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class ChoiceReader:
    """What the settings ``choices``, ``choice_templates``, ``answer`` and ``labels`` say."""

    choices: Any
    templates: Sequence[str]
    answer: str
    labels: Any

    def check(self) -> None:
        """Raise `UserError` for settings that cannot be read."""
        for key, given in (("choices", self.choices), ("labels", self.labels)):
            parts = given if isinstance(given, list) else [given]
            if key == "choices" and not all(isinstance(part, str) for part in parts):
                raise UserError(f"tasks: {key}={given!r}; expected a field, a template, or a list of templates")
            for part in parts:
                check_template(part, key) if isinstance(part, str) else None
        check_template(self.answer, "answer")

    def of(self, item: Item) -> list[str]:
        """Return the choices, two or more texts. Raises `TaskError`."""
        if self.templates or isinstance(self.choices, list):
            key, found = "choices", [render(source, item) for source in self.templates or self.choices]
        else:
            key, found = f"choices={self.choices}", value(self.choices, item)
        if not isinstance(found, list | tuple) or len(found) < 2 or "" in found:
            raise TaskError(f"{item.where}: {key}: this is {_short(found)}, expected a list of 2 or more texts")
        return [text(choice, item.where, key) for choice in found]

    def right(self, item: Item, choices: Sequence[str]) -> int:
        """Return the index of the right choice. Raises `TaskError` unless exactly one is meant."""
        found, what = value(self.answer, item), f"{item.where}: answer={self.answer!r}"
        if self.labels:
            return self._labelled(found, item, choices, what)
        index = _index(found, choices, written=is_template(self.answer))
        if index is not None:
            return index
        raise TaskError(f"{what} gives {_short(found)}; {_expected(found, self.answer, choices)}")

    def _labelled(self, found: Json, item: Item, choices: Sequence[str], what: str) -> int:
        labels = self.labels if isinstance(self.labels, list) else value(self.labels, item)
        if not isinstance(labels, list | tuple) or len(labels) != len(choices):
            raise TaskError(f"{what}: there are {len(choices)} choices, but the labels are {_short(labels)}")
        key = f"answer={self.answer}"
        texts = [text(label, item.where, "labels").strip() for label in labels]
        wanted = text(found, item.where, key).strip()
        if texts.count(wanted) != 1:
            raise TaskError(f"{what} is {_short(found)}; one of the labels {_short(list(labels))} is needed")
        return texts.index(wanted)


def _index(found: Json, choices: Sequence[str], *, written: bool) -> int | None:
    """Return what a value says: an index from 0, the text of one choice, or its letter.

    A text of digits is an index if a template has ``written`` it, and no choice is that number. A field with "1" may
    count from 0 or from 1.
    """
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return found if 0 <= found < len(choices) else None
    if not isinstance(found, str):
        return None
    said = found.strip()
    texts = [choice.strip() for choice in choices]
    if said in texts:
        return texts.index(said) if texts.count(said) == 1 else None
    if len(said) == 1 and said in LETTERS[: len(choices)]:
        return LETTERS.index(said)
    return int(said) if written and re.fullmatch(r"\d{1,9}", said) and int(said) < len(choices) else None


def _expected(found: Json, answer: str, choices: Sequence[str]) -> str:
    name = "answer" if is_template(answer) else answer
    last = len(choices) - 1
    letters = f"a letter from A to {LETTERS[min(last, 25)]}"
    usual = f"expected an index from 0 to {last}, the text of one choice, or {letters}"
    if isinstance(found, bool):
        return f"{usual}; for true and false give labels=[false,true], in the order of the choices"
    remedy = f"answer='{{{{{name}|int}}}}' where they count from 0, '{{{{{name}|int - 1}}}}' from 1"
    return f"{usual}; a template makes one, such as {remedy}"


def _short(found: Json) -> str:
    shown = repr(found)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
