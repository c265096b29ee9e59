"""Writes of one turn of the event loop, which leave together at its end.

Each write wakes a process at the other end. If that gets one alone, it answers and sleeps again before the next one
comes, and every request pays for its waking. The system's code also stays in the processor's caches for the next write.
"""

from __future__ import annotations

import asyncio
from typing import cast

LARGE_BYTES = 64 << 10
"""What is larger leaves at once, so that little is held."""


class WriteQueue:
    """The transports of one event loop that have something to write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[LateTransport] = []

    def late(self, transport: asyncio.BaseTransport) -> LateTransport:
        """Return a transport whose writes leave at the end of a turn."""
        return LateTransport(cast(asyncio.Transport, transport), self)  # uvloop's is no subclass

    def add(self, transport: LateTransport) -> None:
        """Let what a transport holds leave at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(transport)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            transport.flush()


class LateTransport:
    """A transport that writes at the end of a turn of the event loop, or before it ends."""

    def __init__(self, transport: asyncio.Transport, write_queue: WriteQueue) -> None:
        self.held = b""
        """What has not been written; it stays here if the connection is lost before."""
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self._transport = transport
        self._write_queue = write_queue

    def write(self, data: bytes) -> None:
        """Write at the end of this turn."""
        if self.held:
            self.held += data
        elif data:
            self.held = data
            self._write_queue.add(self)
        if len(self.held) > LARGE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write now what is held, unless the connection is closing."""
        if self.held and not self.is_closing():
            data, self.held = self.held, b""
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not left this process."""
        return len(self.held) + self._transport.get_write_buffer_size()

    def write_eof(self) -> None:
        """Write what is held, and end this side of the connection."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close the connection after what is held."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, and drop what is held."""
        self._transport.abort()
