"""A multiplexed response stream: each response carries the events that are ready at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.event_queue import Event, joined
from launcher.backends.pytriton.frames import Frame
from launcher.engines.base import TokenOutput

INTERVAL_PER_SEQUENCE_S = 0.0003
INTERVAL_PER_STREAM_S = 0.001
MAX_INTERVAL_S = 0.02
"""The pause after a response: per running sequence, and more per sequence that has just sent tokens and goes on. Events
during the pause travel together. Each response costs the engine's process about 0.3 ms, and Triton as much again."""


class ResponseStream:
    """The responses to one request that stays open, and to the batches that belong to it.

    A response goes out as the last one of a pending batch, if there is one. That ends the batch's request without a
    message of its own. Responses of different requests may overtake each other, so they are numbered.
    """

    def __init__(self, id: int, send: Callable[[Frame], None], load: Callable[[], int]) -> None:
        self._id = id
        self._send = send
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._batches: deque[int] = deque()
        self._events: list[Event] = []
        self._next_send = 0.0
        self._timer: asyncio.Handle | None = None
        self._count = 0

    def add_batch(self, batch: int) -> None:
        """Add a batch, whose request needs a response."""
        self._batches.append(batch)

    def put(self, event: Event) -> None:
        """Add an event to the next response."""
        self._events.append(event)
        if self._timer is None:
            early = self._next_send > self._loop.time()
            self._timer = (
                self._loop.call_at(self._next_send, self._flush) if early else self._loop.call_soon(self._flush)
            )

    def end(self) -> None:
        """Send the last responses."""
        if self._timer is not None:
            self._timer.cancel()
        for id in (*self._batches, self._id):
            self._send(Frame(id, final=True))

    def _flush(self) -> None:
        self._timer, events, self._events = None, joined(self._events), []
        id = self._batches.popleft() if self._batches else self._id
        self._send(Frame(id, packed=tensors.pack(self._count, events), final=id != self._id))
        self._count += 1
        while len(self._batches) > 1:
            self._send(Frame(self._batches.popleft(), final=True))
        self._next_send = self._loop.time() + self._pause_s(events)

    def _pause_s(self, events: list[Event]) -> float:
        if (load := self._load()) < 2:
            return 0.0
        going_on = sum(isinstance(event.what, TokenOutput) and not event.what.finish for event in events)
        return min(INTERVAL_PER_SEQUENCE_S * load + INTERVAL_PER_STREAM_S * going_on, MAX_INTERVAL_S)
