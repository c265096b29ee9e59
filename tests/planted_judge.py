"""A judge on loopback, in a thread of its own, that is told what to reply."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from launcher.core.types import Json
from tests.evaluate.evaluation_server import serving

Reply = Callable[[str], str | web.Response | Awaitable[str | web.Response]]


@dataclass
class PlantedJudge:
    """Where it is, and the bodies of the requests to it, without those of its certificate."""

    url: str = ""
    asked: list[Json] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


def said(text: str | None, finish: str = "stop") -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return web.json_response({"choices": [choice], "usage": usage, "model": "m"})


@contextmanager
def planted_judge(reply: Reply, port: int = 0, delay_s: float = 0) -> Iterator[PlantedJudge]:
    """Serve until the block ends; ``reply`` gets the last message, and returns a text or a whole response."""
    judge, loop, ready = PlantedJudge(), asyncio.new_event_loop(), threading.Event()
    ended = asyncio.Event()

    async def answer(body: Json, request: web.Request) -> web.StreamResponse:
        prompt = body["messages"][-1]["content"]
        if prompt in ("7+5=", "a"):  # the certificate's, and the plain one after a pause
            return said("12")
        judge.asked.append(body)
        await asyncio.sleep(delay_s)
        made = reply(prompt)
        made = made if isinstance(made, str | web.Response) else await made
        return said(made) if isinstance(made, str) else made

    async def serve() -> None:
        async with serving(answer, port=port) as server:
            judge.url = server.url
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield judge
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()
