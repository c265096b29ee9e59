"""Find the characters of each token of an echoed prompt, and check that tokens, text and offsets agree."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from launcher.core.types import Json

BLANK = "\ufffd"
"""The decoders' mark for a part of a character. A token of these alone, or an empty one, has no text."""
BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
"""OpenAI's name for a token that is part of a character."""
PIECE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""SentencePiece's name for a token of one byte."""
SPECIAL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""The name of a special token, such as ``<s>``, ``<|endoftext|>`` or ``[CLS]``. The text may lack it."""
SPACE = re.compile(r"\s{0,200}")
"""The whitespace that a special token may include; the bound keeps the time linear in the text."""
SHOWN = 20
NOT_GIVEN = -1
"""SGLang's value for each offset, since it has none."""

Span = tuple[int, int]
"""The first character of a token, and the one after its last."""
REMEMBERED, REMEMBERED_CHARACTERS = 32, 20_000
"""An answer is read several times in a row. What was found in the last ones is kept, unless their texts are longer."""


class Spans(list[Span]):
    """The characters of tokens; ``ends`` are their ends where each token begins at the end of the one before it."""

    ends: Sequence[int] | None = None


class Misaligned(ValueError):
    """Tokens, text and offsets of an answer contradict each other; the message names the place."""


class _Aligned(NamedTuple):
    """What was found in an answer, with copies of its lists: they may change."""

    tokens: Sequence[str]
    copied: list[str]
    offsets: list[Json]
    text: str
    end: int
    found: Spans

    def is_of(self, tokens: Sequence[str], offsets: Sequence[Json], text: str, end: int) -> bool:
        same = self.tokens is tokens and self.end == end and self.text == text
        return same and self.copied == tokens and self.offsets == offsets


_remembered: dict[int, _Aligned] = {}
"""By the identity of the list of tokens, which stays in use as long as it is here."""


def aligned(tokens: Sequence[str], offsets: Sequence[Json], text: str, end: int) -> Spans:
    """Return the `spans` of tokens whose offsets agree with them. Raises `Misaligned`."""
    known = _remembered.get(id(tokens))
    if known is not None and known.is_of(tokens, offsets, text, end):
        return known.found
    found = _aligned(tokens, offsets, text, end)
    if len(text) <= REMEMBERED_CHARACTERS:
        if len(_remembered) >= REMEMBERED:
            _remembered.clear()
        _remembered[id(tokens)] = _Aligned(tokens, list(tokens), list(offsets), text, end, found)
    return found


def _aligned(tokens: Sequence[str], offsets: Sequence[Json], text: str, end: int) -> Spans:
    found = spans(tokens, text, end)
    check_offsets(offsets, tokens, found)
    return found


def spans(tokens: Sequence[str], text: str, end: int) -> Spans:
    """Return the characters of each token of the prompt ``text[:end]``; the tokens after it are generated.

    - A special token that the text lacks has an empty span at its place; one in the text may include the whitespace
      beside it. Servers put a BOS before a BOS: if the text begins with one and the tokens with several, the text lacks
      the first ones.
    - A token that begins or ends within a character has the span of the characters that it completes. Parts of
      characters without a text of their own share the span of the characters that they form together.
    - A server may omit the space before a word, write it as U+2581, or add one before the first word, as SentencePiece
      does.

    Raises `Misaligned` if the tokens do not form the prompt.
    """
    before = _in_front(tokens, text[:end])
    if not before and (plain := _joined(tokens, text, end)) is not None:
        return plain
    reader = _Reader(text, end)
    reader.skip(before)
    for token in tokens[before:]:
        if reader.done():
            break
        reader.read(token)
    return Spans(reader.finish())


def _joined(tokens: Sequence[str], text: str, end: int) -> Spans | None:
    """Return the characters of tokens that are the prompt when joined; None for any others."""
    ends = list(accumulate(map(len, tokens)))
    size = bisect_left(ends, end) + 1
    used = tokens[:size]
    if size > len(ends) or ends[size - 1] != end or not all(used) or "".join(used) != text[:end]:
        return None
    found = Spans(zip([0, *ends], ends[:size], strict=False))
    found.ends = ends[:size]
    return found


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how long the common beginning of two sequences is, without a loop over their items in Python."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def not_echoed(text: Json, prompt: str) -> str | None:
    """Return how a text differs from the prompt that it should begin with; None if it does not."""
    if isinstance(text, str) and text.startswith(prompt):
        return None
    plain, at = SPECIAL.sub("", prompt), 0
    if not isinstance(text, str):
        return "the answer has no text with the prompt: the server ignores 'echo'"
    if plain and plain != prompt and text.startswith(plain):
        return "the text begins with the prompt without its special tokens, expected the prompt as sent"
    while at < len(text) and text[at] == prompt[at]:
        at += 1
    if not at:
        return "the text does not begin with the prompt: the server ignores 'echo'"
    return f"the text has {text[at : at + SHOWN]!r} where the prompt goes on with {prompt[at : at + SHOWN]!r}"


def _in_front(tokens: Sequence[str], prompt: str) -> int:
    """Return how many tokens are in front of a text that begins with the same special token."""
    if not tokens or not SPECIAL.fullmatch(tokens[0]) or not prompt.startswith(tokens[0]):
        return 0
    size = next((i for i, token in enumerate(tokens) if token != tokens[0]), len(tokens))
    times = 1
    while times < size and prompt.startswith(tokens[0], times * len(tokens[0])):
        times += 1
    whole = times * len(tokens[0]) == len(prompt)  # the others may be generated
    return 0 if whole else size - times


def check_offsets(offsets: Sequence[Json], tokens: Sequence[str], found: Sequence[Span]) -> None:
    """Raise `Misaligned` unless ``offsets`` are those in the text, or in the joined tokens.

    vLLM counts in the joined tokens; the two differ by special tokens and by hidden spaces. SGLang sends -1 for each.
    """
    size = min(len(offsets), len(tokens) + 1, len(found))
    ends = found.ends if isinstance(found, Spans) else None
    joined = list(accumulate(map(len, tokens[:size]), initial=0)) if ends is None else [0, *ends]
    if list(offsets[:size]) == joined[:size] or all(offset == NOT_GIVEN for offset in offsets):
        return
    for i, (offset, (start, end)) in enumerate(zip(offsets, found, strict=False)):
        if not (offset == start or (start <= offset <= end and _blank(tokens[i]))):
            raise Misaligned(f"text_offset[{i}] is {offset}, but {tokens[i][:SHOWN]!r} begins at character {start}")


def _blank(token: str) -> bool:
    return not token.strip(BLANK)


class _Reader:
    """Walks through the text, token by token."""

    def __init__(self, text: str, end: int) -> None:
        self._text, self._end = text, end
        self._pos = 0
        self._within = 0
        """The bytes of the character at ``_pos`` that are read."""
        self._found: list[Span] = []
        self._open: list[int] = []
        """Tokens without a text of their own; the next token with a text shows where they end."""
        self._parts = 0
        """The least number of parts of characters in them; each part has one to three bytes."""
        self._behind = False
        """Whether only spaces were read since a special token in the text."""

    def done(self) -> bool:
        return self._pos >= self._end and not self._within and not self._parts

    def skip(self, tokens: int) -> None:
        """Skip tokens in front of the text."""
        self._found += [(0, 0)] * tokens

    def read(self, token: str) -> None:
        start = self._pos
        special = SPECIAL.fullmatch(token) is not None
        if self._swallows(token, special) and self._behind:
            start = self._pos
            self._attribute(start)
            if self.done():  # the token is generated
                return
        if not self._open and not self._within and token and self._text.startswith(token, self._pos):
            self._pos += len(token)
        elif BLANK in token or not token:
            start = self._blank(token)
        else:
            start = self._advance(token)
        if not self.done() or start < self._end:
            self._found.append((start, max(start, self._pos)))
        self._behind = (special and self._pos > start) or (self._behind and not token.strip(" \u2581"))

    def _swallows(self, token: str, special: bool) -> bool:
        """Skip whitespace that only a special token beside it can include; return whether some was skipped."""
        start = self._pos
        if self._open or self._within or not (special or self._behind) or self._text.startswith(token, start):
            return False
        found = SPACE.match(self._text, start, self._end)
        end = found.end() if found else start
        if special:
            fits, there = False, self._text.startswith(token, end)
        else:
            fits, there = self._after(token, start) is not None, self._after(token, end) is not None
        rest = self._behind and end == self._end
        if end == start or fits or not (there or rest or token.startswith(BLANK)):
            return False
        self._pos = end
        return True

    def _attribute(self, pos: int) -> None:
        """Extend the special token before to ``pos``; move tokens without text since then to ``pos``."""
        last = len(self._found) - 1
        while last and self._found[last][0] == self._found[last][1]:
            self._found[last] = (pos, pos)
            last -= 1
        self._found[last] = (self._found[last][0], pos)

    def finish(self) -> list[Span]:
        if self._open and self._end in self._places():
            self._close(self._end)
        if self._behind and self._text[self._pos : self._end].isspace():
            self._pos = self._end
            self._attribute(self._pos)
        if self._pos != self._end or self._within:
            at = self._text[self._pos : self._pos + SHOWN]
            raise Misaligned(f"the tokens do not form the prompt: they end before or after its end, at {at!r}")
        return self._found

    def _blank(self, token: str) -> int:
        """Read a token with parts of characters, or without text; return its start."""
        start: int | None = None
        for part in re.split(f"({BLANK}+)", token):
            if part and not _blank(part):
                place = self._advance(part)
                start = place if start is None else start
            elif part or not token:
                self._parts += len(part)
                self._open.append(len(self._found))
                start = self._pos if start is None else start
        return self._pos if start is None else start

    def _advance(self, token: str) -> int:
        """Read a token, or a part of one, with text; return its start."""
        places = [place for place in self._places() if self._fits(token, place)]
        at = self._text[self._pos : self._pos + SHOWN]
        where = f"token {len(self._found)} is {token[:SHOWN]!r} where the text goes on with {at!r}"
        if not places:
            raise Misaligned(f"{where}: tokens and text differ")
        if len(places) > 1 and places[0] != self._pos:
            raise Misaligned(f"{where}: the characters of the tokens before it are ambiguous")
        was_open = bool(self._open)
        self._close(places[0])
        if not (was_open and places[0] == self._end):  # else the token is generated
            self._pos, self._within = self._after(token, places[0]) or (places[0], 0)
        return places[0]

    def _fits(self, token: str, place: int) -> bool:
        return (place == self._end > self._pos) or self._after(token, place) is not None

    def _places(self) -> Sequence[int]:
        """Return the possible ends of the tokens without a text."""
        if not self._open:
            return (self._pos,)
        most = 3 * (self._parts + len(self._open))
        found, size = ([] if self._parts else [self._pos]), 0
        for place in range(self._pos, self._end):
            size += len(self._text[place].encode(errors="surrogatepass"))
            if self._text[place].isascii() or size > most:
                break
            if size >= self._parts:
                found.append(place + 1)
        return found

    def _close(self, place: int) -> None:
        """Give the tokens without a text the characters up to ``place`` together."""
        for index in self._open:
            if index < len(self._found):
                self._found[index] = (self._found[index][0], place)
        self._open.clear()
        self._pos, self._parts = place, 0

    def _after(self, token: str, pos: int) -> tuple[int, int] | None:
        """Return the place after ``token`` at ``pos``, as characters and bytes of the next; None if it differs."""
        text = self._text
        if not self._within and text.startswith(token, pos):
            return pos + len(token), 0
        raw = _bytes_of(token)
        if raw is not None:
            return self._after_bytes(raw, pos)
        if self._within:
            return None
        plain = token.replace("\u2581", " ")
        if text.startswith(plain, pos):
            return pos + len(plain), 0
        if text.startswith(" " + plain, pos):
            return pos + 1 + len(plain), 0
        if (pos == 0 or self._behind) and plain.startswith(" ") and text.startswith(plain[1:], pos):
            return pos + len(plain) - 1, 0
        return (pos, 0) if SPECIAL.fullmatch(token) else None

    def _after_bytes(self, raw: bytes, pos: int) -> tuple[int, int] | None:
        ahead = self._text[pos : pos + len(raw) + 1].encode(errors="surrogatepass")[self._within :]
        if not ahead.startswith(raw):
            return None
        left = self._within + len(raw)
        while left and left >= (width := len(self._text[pos].encode(errors="surrogatepass"))):
            pos, left = pos + 1, left - width
        return pos, left


def _bytes_of(token: str) -> bytes | None:
    """Return the bytes that a token's name stands for; None if the name is the text itself."""
    if match := BYTES.fullmatch(token):
        return bytes.fromhex(match[1].replace("\\x", ""))
    match = PIECE_BYTE.fullmatch(token)
    return bytes.fromhex(match[1]) if match else None
