"""Tokens to text as they come: whole characters only, exact offsets, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Decoder:
    """Decode the bytes of tokens into characters, incrementally.

    The concatenation of all that `feed` and `finish` return equals the concatenated bytes decoded with
    ``errors="replace"``, however the bytes were cut into tokens. ``chars`` is the number of characters so far.
    """

    def __init__(self) -> None:
        self.chars = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> tuple[int, str]:
        """Return the offset of the character that holds the first byte of ``data``, and the characters now complete.

        A token without bytes lies before the next character.
        """
        if not data:
            return self.chars, ""
        if self._pending():
            return self._continue(data)
        offset = self.chars
        return offset, self._count(self._decode.decode(data))

    def finish(self) -> str:
        """Return the replacement character for bytes that never became a whole character."""
        return self._count(self._decode.decode(b"", True))

    def _continue(self, data: bytes) -> tuple[int, str]:
        """Feed after an unfinished character: the first byte either belongs to it, or shows that it was none."""
        head = self._count(self._decode.decode(data[:1]))
        offset = self.chars if self._pending() else self.chars - 1
        return offset, head + self._count(self._decode.decode(data[1:]))

    def _pending(self) -> bool:
        return bool(self._decode.getstate()[0])

    def _count(self, text: str) -> str:
        self.chars += len(text)
        return text


class StopFilter:
    """Let text through up to the first stop string, and hold back what may turn out to be the beginning of one.

    The result does not depend on how the text is cut: among several stop strings the one that is complete first
    wins, and of those that end together the longest. ``hit`` says that a stop string was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.hit = False
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that can be shown now."""
        if not self._stops:
            return text
        text = self._held + text
        cut = self._cut(text)
        if cut is not None:
            self.hit, self._held = True, ""
            return text[:cut]
        keep = len(text) - self._tail(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """Return what was held back: the text is over, so it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _cut(self, text: str) -> int | None:
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        return min(found)[1] if found else None

    def _tail(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that is the beginning of a stop string."""
        return max(_overlap(text, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``; only ends on its last character fit."""
    size = min(len(stop) - 1, len(text))
    while size:
        size = stop.rfind(text[-1], 0, size) + 1
        if text.endswith(stop[:size]):
            return size
        size -= 1
    return 0
