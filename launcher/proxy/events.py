"""Cuts the bytes of a stream into server-sent events, however they are cut."""

from __future__ import annotations

from collections.abc import Iterator


class EventSplitter:
    """Collects bytes; `feed` yields the data of each event as soon as its last byte is there.

    Lines end in LF, CRLF or CR; comments and fields other than ``data`` are skipped (WHATWG HTML, 9.2.6).
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" in buffer:
            buffer = _without_returns(buffer)
        *blocks, self._rest = buffer.split(b"\n\n")
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                yield block[6:]
            elif (data := _data(block)) is not None:
                yield data


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
