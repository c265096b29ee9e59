"""Collects tokens, and decides when it is worth waking those who wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from launcher.engines.base import TokenOutput

READER_S = 0.0005
"""How long to leave the readers in peace, per reader: waking one costs a good part of this, more if it writes to a
socket, and while it runs the model waits for the interpreter. A single reader is woken at every step, dozens are
woken every few milliseconds."""

Send = Callable[[Sequence[tuple[str, TokenOutput]]], None]
"""Takes what is sent together, by request id."""


class OutputBuffer:
    """What sequences have said and nobody was told yet. First and last tokens never wait. Not thread-safe.

    Of a sequence that is wanted ``whole`` nothing is sent between the two.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._pending: dict[str, list[TokenOutput]] = {}
        self._whole: set[str] = set()
        self._begun: set[str] = set()
        self._due = 0.0

    def add(self, request_id: str, tokens: TokenOutput, *, whole: bool = False) -> None:
        if request_id in self._pending:
            self._pending[request_id].append(tokens)
            return
        self._pending[request_id] = [tokens]
        if whole:
            self._whole.add(request_id)

    def forget(self, request_id: str) -> None:
        self._pending.pop(request_id, None)
        self._whole.discard(request_id)
        self._begun.discard(request_id)

    def flush(self, *, everything: bool) -> None:
        """Send what is due, or all that may be sent."""
        due = everything or time.monotonic() >= self._due
        waiting = self._whole if due else self._begun
        self._release([k for k, e in self._pending.items() if k not in waiting or k not in self._begun or e[-1].finish])
        if due:
            self._due = time.monotonic() + READER_S * len(self._begun - self._whole)

    def _release(self, request_ids: Sequence[str]) -> None:
        if not request_ids:
            return
        ready = [(request_id, join(self._pending.pop(request_id))) for request_id in request_ids]
        for request_id, tokens in ready:
            if tokens.finish:
                self.forget(request_id)
            else:
                self._begun.add(request_id)
        self._send(ready)


def join(events: Sequence[TokenOutput]) -> TokenOutput:
    """Make one event of several that follow one another."""
    if len(events) == 1:
        return events[0]
    return TokenOutput(tuple([t for event in events for t in event.tokens]), events[0].prompt, events[-1].finish)
