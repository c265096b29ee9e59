"""Knows events that differ from an earlier one in nothing but a plain text, and so need no parser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from launcher.adapters.base import Changes
from launcher.core.types import Json

DATA, END = b"data: ", b"\n\n"
PROBES = ("probe", "other")
"""Of these, one differs from the text of an event."""
FIRST = 3
"""So many events at the beginning of a stream are parsed one by one."""
MOST_USELESS = 4
"""After so many templates in a row that no event matched, a stream is parsed to its end."""


class Template(NamedTuple):
    """What stands before, between and after the texts of such events in a row: as they come, and as they leave."""

    before: bytes
    between: bytes
    after: bytes
    written: tuple[bytes, bytes, bytes] | None
    """None where they leave as they came."""

    def found(self, chunk: bytes) -> tuple[list[bytes], int] | None:
        """Return the texts of the events that a chunk begins with, and where those events end.

        What stands between two texts may be another event: then these are no plain texts.
        """
        before, between, after, _ = self
        if not chunk.startswith(before):
            return None
        end = chunk.rfind(after)
        return (chunk[len(before) : end].split(between), end + len(after)) if end >= len(before) else None

    def made(self, texts: Sequence[bytes], came: bytes) -> bytes:
        """Return the events with these texts as they leave."""
        if self.written is None:
            return came
        before, between, after = self.written
        return before + between.join(texts) + after


class Templates:
    """The template of the last event of a stream, as long as its adapters treat further texts as they treated that."""

    def __init__(self, changes: Sequence[Changes]) -> None:
        self._changes = changes
        self._template: Template | None = None
        self._useless = 0
        self._looked = 0

    @property
    def is_new(self) -> bool:
        """Whether the stream has just begun: then it pays to look at each of its events for a template."""
        return self._template is None and self._looked < FIRST

    def passed(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Return what becomes of the events at the beginning of a chunk, and the rest of the chunk."""
        template = self._template
        found = None if template is None else template.found(chunk)
        if template is None or found is None or (plain := _plain(found[0])) is None:
            return b"", chunk
        for each in self._changes:
            if not each.is_alike(plain):
                return b"", chunk
        texts, end = found
        for each in self._changes:
            each.count_alike(len(plain) - len(texts) + 1, len(texts))
        self._useless = 0
        return template.made(texts, chunk[:end]), chunk[end:]

    def learn(self, data: bytes, event: Json, made: bytes) -> None:
        """Take an event for the next template: as it came, as it was parsed, and as it leaves."""
        self._template = None
        self._looked += 1
        if self._useless < MOST_USELESS and (found := template_of(data, event, made)) is not None:
            self._useless += 1
            self._template = found


def _plain(texts: Sequence[bytes]) -> str | None:
    """Return texts with a space between them, if JSON writes each of them as it is, and none is empty."""
    if b"" in texts:
        return None
    try:
        joined = b" ".join(texts).decode()  # none ends within a character, since the next byte is a space
    except UnicodeDecodeError:
        return None
    return joined if joined.isprintable() and '"' not in joined and "\\" not in joined else None


def template_of(data: bytes, event: Json, made: bytes) -> Template | None:
    """Return the template of an event; None if it has none.

    Its text stands as a whole string in one place of what came, and in one of what leaves. Another text in the first of
    these, the probe, has to be read as an equal event with that text. Then the place is within the quotes of that
    string, and any text without quotes, backslashes and control characters is read so, too.
    """
    holder, key = _place(event)
    text = holder.get(key)
    if type(text) is not str or _plain([text.encode(errors="replace")]) != text:
        return None
    quoted = f'"{text}"'.encode()
    if data.count(quoted) != 1 or made.count(quoted) != 1 or b"\n" in data:
        return None
    before, after = _around(data, quoted)
    probe = PROBES[text == PROBES[0]]
    try:
        probed = orjson.loads(before + probe.encode() + after)
    except orjson.JSONDecodeError:
        return None
    holder, key = _place(probed)
    if holder.get(key) != probe:
        return None
    holder[key] = text
    if probed != event:
        return None
    return Template(*_in_a_row(before, after), None if made == data else _in_a_row(*_around(made, quoted)))


def _place(event: Json) -> tuple[dict[str, Json], str]:
    """Return what holds the text of an event with one choice, and its name there; nothing for other events."""
    choices = event.get("choices") if type(event) is dict else None
    choice = choices[0] if type(choices) is list and len(choices) == 1 else None
    if type(choice) is not dict:
        return {}, ""
    delta = choice.get("delta")
    return (delta, "content") if type(delta) is dict else (choice, "text")


def _around(data: bytes, quoted: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after a text, with its quotes."""
    before, _, after = data.partition(quoted)
    return before + b'"', b'"' + after


def _in_a_row(before: bytes, after: bytes) -> tuple[bytes, bytes, bytes]:
    return DATA + before, after + END + DATA + before, after + END
