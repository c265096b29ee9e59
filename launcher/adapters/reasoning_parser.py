"""Splits generated text into reasoning and answer, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Section(Enum):
    """The part of the text that the parser is in."""

    before = auto()
    inside = auto()
    after = auto()


BEFORE, INSIDE, AFTER = Section


@dataclass(frozen=True, slots=True)
class ParsedDelta:
    """The text that one delta adds to the answer and to the reasoning."""

    answer: str = ""
    reasoning: str = ""

    def __add__(self, other: ParsedDelta) -> ParsedDelta:
        return ParsedDelta(self.answer + other.answer, self.reasoning + other.reasoning)


class UnmatchedEndTag(ValueError):
    """An end tag that no start tag opened."""


class ReasoningParser:
    """Reasoning is the text between the first start tag and the next end tag.

    Text before the start tag and all text after the end tag belong to the answer, further tags included. With
    ``inside`` the text begins inside the reasoning, because the prompt ended with the start tag. The model may repeat
    that tag at once; it is dropped. Text that may begin a tag is held back until it is clear.
    """

    def __init__(self, start: str, end: str, *, inside: bool = False) -> None:
        self.start, self.end = start, end
        self._start, self._end = start[0], end[0]
        self.section = Section.inside if inside else Section.before
        self._repeat_possible = inside
        self._held = ""

    def is_answer(self, text: str) -> bool:
        """Tell whether all of a text belongs to the answer as it is; `feed` does not need it then."""
        if self._held or self.section is INSIDE:
            return False
        return self.section is AFTER or (self._start not in text and self._end not in text)

    def is_reasoning(self, text: str) -> bool:
        """Tell whether all of a text belongs to the reasoning as it is; `feed` does not need it then."""
        if self._held or self._repeat_possible or self.section is not INSIDE:
            return False
        return self._start not in text and self._end not in text

    def whole(self, text: str) -> ParsedDelta:
        """Return all of a text, as `feed` and `close` would. Raises `UnmatchedEndTag` as `feed` does."""
        if self.section is not Section.before:
            return self.feed(text) + self.close()
        before, tag, rest = text.partition(self.start)
        if self.end in before:
            raise UnmatchedEndTag(f"'{self.end}' without '{self.start}' before it")
        if not tag:
            return ParsedDelta(text)
        reasoning, tag, after = rest.partition(self.end)
        self.section = Section.after if tag else Section.inside
        return ParsedDelta(before + after, reasoning)

    def feed(self, text: str) -> ParsedDelta:
        """Return the text that is decided by now. Raises `UnmatchedEndTag` for an end tag without a start tag."""
        if not self._held and not self._repeat_possible and self.start[0] not in text and self.end[0] not in text:
            return ParsedDelta(reasoning=text) if self.section is Section.inside else ParsedDelta(answer=text)
        self._held += text
        if self.section is Section.before:
            return self._before()
        if self.section is Section.inside:
            return self._inside()
        held, self._held = self._held, ""
        return ParsedDelta(answer=held)

    def close(self) -> ParsedDelta:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return ParsedDelta(reasoning=held) if self.section is Section.inside else ParsedDelta(answer=held)

    @property
    def unfinished(self) -> bool:
        """Whether the text ended before the reasoning did."""
        return self.section is Section.inside

    def _before(self) -> ParsedDelta:
        head, tag, rest = self._held.partition(self.start)
        if self.end in head:
            raise UnmatchedEndTag(f"'{self.end}' without '{self.start}' before it")
        if not tag:
            return ParsedDelta(answer=self._release(self.start, self.end))
        self.section, self._held = Section.inside, rest
        return ParsedDelta(answer=head) + self._inside()

    def _inside(self) -> ParsedDelta:
        if self._repeat_possible and not self._drop_repeated_start():
            return ParsedDelta()
        head, tag, rest = self._held.partition(self.end)
        if not tag:
            return ParsedDelta(reasoning=self._release(self.end))
        self.section, self._held = Section.after, ""
        return ParsedDelta(answer=rest, reasoning=head)

    def _drop_repeated_start(self) -> bool:
        """Drop a start tag at the beginning; return False while the text is too short to tell."""
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
    if tag[0] not in text[-longest:]:
        return 0
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
