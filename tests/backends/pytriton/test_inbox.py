from __future__ import annotations

import asyncio
import threading

from launcher.backends.pytriton.inbox import Event, Inbox
from launcher.engines.base import TokenLogprob, Tokens


def said(id: str, *tokens: int) -> Event:
    return Event(id, Tokens(tuple(map(TokenLogprob, tokens))))


async def test_what_is_ready_together_comes_together_and_joined() -> None:
    inbox, failure = Inbox(), ValueError()
    for event in (said("b", 1), said("a", 2), said("b", 3), Event("b", failure)):
        inbox.put(event)
    assert await inbox.get() == [said("a", 2), said("b", 1, 3), Event("b", failure)]


async def test_nothing_is_lost_or_reordered_between_threads() -> None:
    inbox, found = Inbox(), []

    def fill() -> None:
        for token in range(20_000):
            inbox.put(said("a", token))

    thread = threading.Thread(target=fill)
    thread.start()
    while len(found) < 20_000:
        for event in await inbox.get():
            found += [token.token for token in event.what.tokens]
    thread.join()
    assert found == list(range(20_000))


def test_a_reader_that_is_gone_is_no_problem() -> None:
    async def make() -> Inbox:
        return Inbox()

    asyncio.run(make()).put(said("a", 1))
