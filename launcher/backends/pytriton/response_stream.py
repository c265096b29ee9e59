"""The events of many sequences, in answers that each carry what is ready at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.event_queue import Event, joined
from launcher.backends.pytriton.frames import Frame
from launcher.engines.base import TokenOutput

PACE_S = 0.0003
STREAM_S = 0.001
LONGEST_S = 0.02
"""How long a feed rests after an answer: per sequence that runs, more for those that have just told a part of their
tokens. What comes in the meantime travels together; each answer costs the engine's process about a third of a
millisecond, and Triton as much again."""


class ResponseStream:
    """A request that is answered for as long as Triton's model is connected, and the batches that belong to it.

    An answer that is due goes out as the last one of a batch, if one has none yet: so every request of Triton's has its
    end, and a message of its own for that is rarely needed. Answers of different requests may overtake each other, and
    are numbered.
    """

    def __init__(self, id: int, send: Callable[[Frame], None], load: Callable[[], int]) -> None:
        self._id = id
        self._send = send
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._batches: deque[int] = deque()
        self._events: list[Event] = []
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._count = 0

    def owe(self, batch: int) -> None:
        """Note the id of a batch, which wants an answer."""
        self._batches.append(batch)

    def put(self, event: Event) -> None:
        """Tell an event, with what else there is when an answer is due."""
        self._events.append(event)
        if self._timer is None:
            early = self._due > self._loop.time()
            self._timer = self._loop.call_at(self._due, self._tell) if early else self._loop.call_soon(self._tell)

    def end(self) -> None:
        """Answer for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        for id in (*self._batches, self._id):
            self._send(Frame(id, final=True))

    def _tell(self) -> None:
        self._timer, events, self._events = None, joined(self._events), []
        id = self._batches.popleft() if self._batches else self._id
        self._send(Frame(id, packed=tensors.pack(self._count, events), final=id != self._id))
        self._count += 1
        while len(self._batches) > 1:
            self._send(Frame(self._batches.popleft(), final=True))
        self._due = self._loop.time() + self._rest(events)

    def _rest(self, events: list[Event]) -> float:
        if (load := self._load()) < 2:
            return 0.0
        going_on = sum(isinstance(event.what, TokenOutput) and not event.what.finish for event in events)
        return min(PACE_S * load + STREAM_S * going_on, LONGEST_S)
