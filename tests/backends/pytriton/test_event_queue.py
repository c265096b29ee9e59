from __future__ import annotations

from launcher.backends.pytriton.event_queue import Event, EventQueue
from launcher.engines.base import TokenLogprob, TokenOutput


def said(id: str, *tokens: int) -> Event:
    return Event(id, TokenOutput(tuple(map(TokenLogprob, tokens))))


async def test_what_is_ready_together_comes_together_and_joined() -> None:
    inbox, failure = EventQueue(), ValueError()
    for event in (said("b", 1), said("a", 2), said("b", 3), Event("b", failure)):
        inbox.put(event)
    assert await inbox.get() == [said("a", 2), said("b", 1, 3), Event("b", failure)]
