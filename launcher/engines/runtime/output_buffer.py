"""Buffers output tokens, and decides when to wake the readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from launcher.engines.base import TokenOutput

WAKE_INTERVAL_S = 0.0005
"""Minimum interval between wake-ups, per reader.

Waking a reader costs a good part of this time, more if it writes to a socket, and the model waits for the interpreter
until then. A single reader is woken at every step, dozens are woken every few milliseconds.
"""

Send = Callable[[Sequence[tuple[str, TokenOutput]]], None]
"""Receives the outputs that are sent together, by request id."""


class OutputBuffer:
    """Outputs that are not sent yet. First and last tokens are sent at once. Not thread-safe.

    A ``final_only`` request gets nothing between its first and its last event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pending: dict[str, list[TokenOutput]] = {}
        self._urgent: dict[str, None] = {}
        self._final_only: set[str] = set()
        self._started: set[str] = set()
        self._due = 0.0

    def add(self, request_id: str, tokens: TokenOutput, final_only: bool = False) -> None:
        held = self._pending.get(request_id)
        if held is not None:
            held.append(tokens)
        else:
            self._pending[request_id] = [tokens]
            if request_id not in self._started:
                self._urgent[request_id] = None
                if final_only:
                    self._final_only.add(request_id)
        if tokens.finish is not None:
            self._urgent[request_id] = None

    def discard(self, request_id: str) -> None:
        self._pending.pop(request_id, None)
        self._urgent.pop(request_id, None)
        self._final_only.discard(request_id)
        self._started.discard(request_id)

    def flush(self, *, everything: bool) -> None:
        """Send the outputs that are due, or all that may be sent."""
        due = everything or time.monotonic() >= self._due
        if due:
            waiting = self._final_only
            self._send_ready([k for k in self._pending if k not in waiting or k in self._urgent])
            self._due = time.monotonic() + WAKE_INTERVAL_S * len(self._started - self._final_only)
        else:
            self._send_ready(list(self._urgent))

    def _send_ready(self, request_ids: Sequence[str]) -> None:
        if not request_ids:
            return
        ready = [(request_id, join(self._pending.pop(request_id))) for request_id in request_ids]
        self._urgent.clear()
        for request_id, tokens in ready:
            if tokens.finish:
                self.discard(request_id)
            else:
                self._started.add(request_id)
        self._send(ready)


def join(events: Sequence[TokenOutput]) -> TokenOutput:
    """Join consecutive events into one."""
    if len(events) == 1:
        return events[0]
    return TokenOutput(tuple([t for event in events for t in event.tokens]), events[0].prompt, events[-1].finish)
