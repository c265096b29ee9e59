"""Events of sequences, on their way from the engine's thread to the loop of whoever reads them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from launcher.engines.base import Tokens
from launcher.engines.outbox import join


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to the sequence ``id``: tokens, or the error that ended it."""

    id: str
    what: Tokens | Exception


class Inbox:
    """Made and read in one loop; filled from any thread. However much comes at once, the reader wakes once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._guard = threading.Lock()
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Add an event. If the reader's loop is no more, nobody is left to tell."""
        with self._guard:
            self._events.append(event)
            first = len(self._events) == 1
        if first:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ready.set)

    async def get(self) -> list[Event]:
        """Wait for events and return all that are there, those of one sequence joined."""
        await self._ready.wait()
        self._ready.clear()
        with self._guard:
            events, self._events = self._events, []
        return _joined(events)


def _joined(events: list[Event]) -> list[Event]:
    """Make one event of the tokens of a sequence; the order within a sequence stays."""
    if len(events) == 1:
        return events
    found: list[Event] = []
    for id, group in groupby(sorted(events, key=lambda event: event.id), key=lambda event: event.id):
        mine = [event.what for event in group]
        tokens = [what for what in mine if isinstance(what, Tokens)]
        if tokens:
            found.append(Event(id, join(tokens)))
        found += [Event(id, what) for what in mine if isinstance(what, Exception)]
    return found
