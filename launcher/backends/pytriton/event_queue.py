"""A queue of sequences' events, whose reader takes all that are ready."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import groupby

from launcher.engines.base import TokenOutput
from launcher.engines.runtime.output_buffer import join


@dataclass(frozen=True, slots=True)
class Event:
    """New tokens of the sequence ``id``, or the error that ended it."""

    id: str
    what: TokenOutput | Exception


class EventQueue:
    """Filled and read in one event loop; events that come together wake the reader once."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._ready.set()

    async def get(self) -> list[Event]:
        """Wait for events; return all that are ready, with those of one sequence joined."""
        await self._ready.wait()
        self._ready.clear()
        events, self._events = self._events, []
        return joined(events)


def joined(events: list[Event]) -> list[Event]:
    """Join the tokens of each sequence to one event; the order within a sequence stays."""
    if len(events) == 1:
        return events
    found: list[Event] = []
    for id, group in groupby(sorted(events, key=lambda event: event.id), key=lambda event: event.id):
        mine = [event.what for event in group]
        tokens = [what for what in mine if isinstance(what, TokenOutput)]
        if tokens:
            found.append(Event(id, join(tokens)))
        found += [Event(id, what) for what in mine if isinstance(what, Exception)]
    return found
