"""Splits generated text into thought and answer, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Place(Enum):
    """Where in the text the splitter is."""

    before = auto()
    inside = auto()
    after = auto()


@dataclass(frozen=True)
class Piece:
    """What a piece of text adds to the answer and to the thought."""

    answer: str = ""
    thought: str = ""

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.answer + other.answer, self.thought + other.thought)


class StrayEnd(ValueError):
    """An end tag that no start tag opened."""


class ReasoningParser:
    """A thought is what lies between the first start tag and the first end tag behind it.

    Text before the start tag belongs to the answer, as does everything behind the end tag, whatever tags are in it.
    With ``inside`` the text begins in the middle of the thought (the prompt ended with the start tag); a start tag
    that the model repeats at once is dropped. Text that may be the beginning of a tag is held back until it is clear.
    """

    def __init__(self, start: str, end: str, *, inside: bool = False) -> None:
        self.start, self.end = start, end
        self.place = Place.inside if inside else Place.before
        self._repeat_possible = inside
        self._held = ""

    def feed(self, text: str) -> Piece:
        """Return what is certain after ``text``. Raises `StrayEnd` for an end tag without a start tag."""
        self._held += text
        if self.place is Place.before:
            return self._before()
        if self.place is Place.inside:
            return self._inside()
        held, self._held = self._held, ""
        return Piece(answer=held)

    def close(self) -> Piece:
        """Return the text that was held back, when no more is to come."""
        held, self._held = self._held, ""
        return Piece(thought=held) if self.place is Place.inside else Piece(answer=held)

    @property
    def unfinished(self) -> bool:
        """Whether the text ended before the thought did."""
        return self.place is Place.inside

    def _before(self) -> Piece:
        head, tag, rest = self._held.partition(self.start)
        if self.end in head:
            raise StrayEnd(f"'{self.end}' without '{self.start}' before it")
        if not tag:
            return Piece(answer=self._release(self.start, self.end))
        self.place, self._held = Place.inside, rest
        return Piece(answer=head) + self._inside()

    def _inside(self) -> Piece:
        if self._repeat_possible and not self._drop_repeated_start():
            return Piece()
        head, tag, rest = self._held.partition(self.end)
        if not tag:
            return Piece(thought=self._release(self.end))
        self.place, self._held = Place.after, ""
        return Piece(answer=rest, thought=head)

    def _drop_repeated_start(self) -> bool:
        """Return whether it is clear if the text begins with the start tag."""
        begun = self._held.lstrip()
        if len(begun) < len(self.start) and self.start.startswith(begun):
            return False
        if begun.startswith(self.start):
            self._held = begun[len(self.start) :]
        self._repeat_possible = False
        return True

    def _release(self, *tags: str) -> str:
        """Return the held text except for an end that may be the beginning of one of ``tags``."""
        kept = max(_overlap(self._held, tag) for tag in tags)
        cut = len(self._held) - kept
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of ``text`` that ``tag`` begins with (less than the whole tag)."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
