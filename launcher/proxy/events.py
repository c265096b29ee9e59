"""Cuts the bytes of a stream into server-sent events, however they are cut."""

from __future__ import annotations

from typing import cast


class EventSplitter:
    """Collects bytes; `feed` returns the data of each event whose last byte is there.

    Lines end in LF, CRLF or CR; comments and fields other than ``data`` are skipped (WHATWG HTML, 9.2.6).
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
    """Return bytes whose lines end in LF; a last CR stays, since its LF may follow."""
    held = b"\r" if buffer.endswith(b"\r") else b""
    return buffer.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held


def _data(block: bytes) -> bytes | None:
    """Return the data of an event; None for an event without."""
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
