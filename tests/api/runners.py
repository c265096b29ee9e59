"""Scripted engines, and apps in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import httpx

from launcher.api.app import create_app
from launcher.core.tokenizer import ByteTokenizer, Tokenizer
from launcher.engines.base import AsyncEngine, EngineState, GenerationRequest, TokenLogprob, TokenOutput

Script = Sequence[TokenOutput | Exception]


class Scripted(AsyncEngine):
    """Plays the same events for every request, raises those that are exceptions, and counts what is open."""

    model = "scripted"
    context_length = 64

    def __init__(self, script: Script, tokenizer: Tokenizer | None = None) -> None:
        self.script = script
        self.tokenizer = tokenizer or ByteTokenizer()
        self.asked: list[GenerationRequest] = []
        self.open = 0
        self.error: str | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self.asked.append(request)
        self.open += 1
        try:
            for event in self.script:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.open -= 1

    def reference(self, tokens: Sequence[int]) -> list[float]:
        raise NotImplementedError

    def state(self) -> EngineState:
        return EngineState(running=self.open, error=self.error)


def said(text: str | bytes, finish: str | None = None) -> TokenOutput:
    """Return an event with one token per byte."""
    data = text.encode() if isinstance(text, str) else text
    return TokenOutput(tuple(TokenLogprob(byte, -0.5, ((byte, -0.5),)) for byte in data), finish=finish)  # type: ignore[arg-type]


def client_of(runner: AsyncEngine, **settings: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(runner, **settings), raise_app_exceptions=True)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://in.memory")
