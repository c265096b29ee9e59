"""Cuts the bytes of a stream into server-sent events, however they are cut."""

from __future__ import annotations

from typing import cast

MARK = b"\xef\xbb\xbf"
"""The byte order mark, which a stream may begin with."""


class EventSplitter:
    """Collects bytes; `feed` returns the data of each event whose last byte is there.

    Lines end in LF, CRLF or CR; a byte order mark, comments and fields other than ``data`` are skipped (WHATWG HTML,
    9.2.6).
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        if (
            not self._rest
            and chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[-1:] == b"\n"
        ):
            return [chunk[6:-2]] if b"\r" not in chunk else self._cut(chunk)
        return self._cut(self._rest + chunk if self._rest else chunk)

    def _cut(self, buffer: bytes) -> list[bytes]:
        if b"\r" in buffer:
            buffer = _without_returns(buffer)
        *blocks, self._rest = buffer.split(b"\n\n")
        found = [block[6:] if block.startswith(b"data: ") and b"\n" not in block else _data(block) for block in blocks]
        return [data for data in found if data is not None] if None in found else cast(list[bytes], found)


def _without_returns(buffer: bytes) -> bytes:
    """Return bytes whose lines end in LF; a last CR stays, since its LF may follow, but ends an event."""
    made = buffer.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not buffer.endswith(b"\r"):
        return made
    return made + (b"\n\r" if made.endswith(b"\n") else b"\r")


def _data(block: bytes) -> bytes | None:
    """Return the data of an event; None for an event without."""
    lines = []
    for line in block.removeprefix(MARK).split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
