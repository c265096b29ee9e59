"""In-memory servers for adapters: handlers that answer as told and remember what they were asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from launcher.core.types import Json, Request, Response


@dataclass
class Server:
    """Answers each request with the next of ``answers`` (the last one again and again); an exception is raised."""

    answers: list[Response | BaseException]
    asked: list[Request] = field(default_factory=list)

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def server() -> Callable[..., Server]:
    return lambda *answers: Server(list(answers) or [Response(200, {"choices": []})])


@pytest.fixture
def chat() -> Callable[..., Request]:
    return lambda *messages, **body: Request("/v1/chat/completions", {"messages": list(messages), **body})


@pytest.fixture
def stream() -> Callable[[list[Json]], AsyncIterator[Json]]:
    async def events(items: list[Json]) -> AsyncIterator[Json]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    return events
