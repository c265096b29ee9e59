"""Split the text of an echoed prompt into the text of each token.

A tokenizer splits a text at added tokens (mostly special ones) and encodes each part between them. This module searches
the prompt for these parts. SentencePiece may have put a space before a part. An added token may include the whitespace
beside it (``lstrip``, ``rstrip``), as those of Phi-3 do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product

from launcher.core.tokenizer import Tokenizer

WHITESPACE = re.compile(rb"\s*")


class Changed(Exception):
    """The tokens do not spell the prompt."""


def echoed(tokens: Sequence[int], prompt: str | None, tokenizer: Tokenizer) -> tuple[bytes, ...]:
    """Return the UTF-8 bytes of each token of a prompt; ``prompt`` is its text, None for a prompt of token ids.

    Joined they are ``prompt``: a token that the tokenizer added around it (BOS) has no bytes. Without a text they are
    the tokens' own bytes, or the names of special tokens. The same holds where the tokenizer changed the text (NFC,
    unknown characters).
    """
    pieces = tokenizer.text_pieces(tokens)
    if prompt is not None:
        if b"".join(pieces) == prompt.encode(errors="replace"):
            return tuple(pieces)
        for glued in (False, True):
            with suppress(Changed):
                return tuple(_Cutter(tokens, prompt, tokenizer).pieces(glued))
    pairs = zip(tokens, pieces, strict=True)
    return tuple(data if tokenizer.token_bytes(token) else _text(token, tokenizer) for token, data in pairs)


def _text(token: int, tokenizer: Tokenizer) -> bytes:
    return tokenizer.token_bytes(token) or tokenizer.token_name(token).encode()


def _without(part: list[bytes], first: bool) -> list[bytes]:
    """Remove one surplus space: the first of a text, or else the last before the first word of a part."""
    words = (i for i, token in enumerate(part) if token.strip(b" "))
    word = next(words, len(part))
    at = 0 if first else word if word < len(part) and part[word].startswith(b" ") else word - 1
    return [*part[:at], part[at][1:], *part[at + 1 :]]


class _Cutter:
    """Walks through a prompt, part by part."""

    def __init__(self, tokens: Sequence[int], prompt: str, tokenizer: Tokenizer) -> None:
        self._prompt, self._at = prompt.encode(errors="replace"), 0
        self._tokenizer = tokenizer
        self._tokens = [(_text(token, tokenizer), tokenizer.is_added(token)) for token in tokens]

    def pieces(self, glued: bool) -> Iterator[bytes]:
        """Yield the bytes of each token; ``glued``: the first includes the whitespace before it. Raises `Changed`."""
        before = self._in_front(self._space(0) if glued else 0)
        yield from [b""] * before
        added: bytes | None = None
        for part, following in self._parts(before):
            swallowed, lead, trailing = self._place(part, following, added is not None)
            if added is not None:
                yield added + swallowed
            yield from _without(part, first=added is None) if lead else part
            added = trailing + self._read(following)
        if self._at != len(self._prompt):
            raise Changed

    def _in_front(self, start: int) -> int:
        """Return how many tokens the tokenizer put in front; a BOS in the prompt itself follows the tokenizer's own."""
        first, added = self._tokens[0]
        if not added:
            return 0
        size = next((i for i, token in enumerate(self._tokens) if token[0] != first), len(self._tokens))
        times = 0
        while times < size and self._prompt.startswith(first, start + times * len(first)):
            times += 1
        return size - times

    def _parts(self, before: int) -> Iterator[tuple[list[bytes], bytes]]:
        """Yield the tokens up to each added one with its text, then the rest with an empty text."""
        part: list[bytes] = []
        for text, added in self._tokens[before:]:
            if added:
                yield part, text
                part = []
            else:
                part.append(text)
        yield part, b""

    def _place(self, part: list[bytes], following: bytes, behind: bool) -> tuple[bytes, int, bytes]:
        """Find a part; return the whitespace before it, its number of surplus spaces, and the whitespace behind it."""
        text, start = b"".join(part), self._at
        before = (0, self._space(start)) if behind else (0,)
        leads = (0, 1) if text.startswith(b" ") else (0,)
        for swallows, swallowed, lead in product((False, True), before, leads):
            end = start + swallowed + len(text) - lead
            trailing = self._space(end) if swallows else 0
            if self._prompt.startswith(text[lead:], start + swallowed) and self._goes_on(following, end, trailing):
                self._at = end + trailing
                return self._prompt[start : start + swallowed], lead, self._prompt[end : self._at]
        raise Changed

    def _goes_on(self, following: bytes, end: int, trailing: int) -> bool:
        """Return whether the next added token, or the end of the prompt, follows."""
        found = bool(following) and self._prompt.startswith(following, end + trailing)
        return found or (end == len(self._prompt) and not trailing)

    def _space(self, at: int) -> int:
        found = WHITESPACE.match(self._prompt, at)
        return found.end() - at if found else 0

    def _read(self, text: bytes) -> bytes:
        """Consume the added token here; one that the tokenizer put behind the prompt has no text."""
        if not self._prompt.startswith(text, self._at):
            return b""
        self._at += len(text)
        return text
