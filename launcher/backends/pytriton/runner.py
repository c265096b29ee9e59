"""The engine as the API sees it: generation goes through Triton, the rest straight to the engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import cast

from launcher.backends.pytriton.grpc_client import GrpcClient
from launcher.backends.pytriton.request_handler import RequestHandler
from launcher.backends.pytriton.supervisor import Supervisor
from launcher.core.errors import EngineUnavailable
from launcher.core.types import Json
from launcher.engines.base import AsyncEngine, EngineState, GenerationRequest, TokenOutput


class TritonRunner(AsyncEngine):
    """Speaks to the Triton that a supervisor keeps alive. Whatever ends a stream early also frees the engine's slot."""

    def __init__(self, engine: AsyncEngine, served: RequestHandler, supervisor: Supervisor) -> None:
        self.model = engine.model
        self.tokenizer = engine.tokenizer
        self.context_length = engine.context_length
        self.capacity = engine.capacity
        self._engine = engine
        self._served = served
        self._supervisor = supervisor
        self._link: GrpcClient | None = None
        supervisor.attach(engine, self._down, self._traffic)

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        link, finished = self._connected(), False
        try:
            async with aclosing(cast("AsyncGenerator[TokenOutput, None]", link.generate(request))) as events:
                async for event in events:
                    finished = event.finish is not None
                    yield event
        finally:
            if not finished:
                self._served.withdraw(request.id)

    def reference(self, tokens: Sequence[int]) -> list[float]:
        return self._engine.reference(tokens)

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        return self._engine.exact_reference(tokens)

    def state(self) -> EngineState:
        state = self._engine.state()
        if state.error is not None:
            return state
        return replace(state, error=self._supervisor.error, restarting=self._supervisor.restarting)

    def describe(self) -> dict[str, Json]:
        return self._engine.describe() | {"triton": self._supervisor.facts()}

    def _traffic(self) -> int:
        """Return how many answers of Triton have come so far, over the current link."""
        return self._link.traffic if self._link else 0

    def _connected(self) -> GrpcClient:
        """Return the link to the Triton that runs now. Raises `EngineUnavailable` if none does."""
        if self._supervisor.error is not None:
            raise EngineUnavailable(self._supervisor.error)
        link = self._link
        if link is None or link.failed is not None or link.loop is not asyncio.get_running_loop():
            if link is not None:
                self._served.end_feed(link.feed)
            link = self._link = GrpcClient(*self._supervisor.grpc())
            self._served.know(link.feed)
        return link

    def _down(self, reason: str) -> None:
        """Fail what is under way, because Triton is gone; called by the supervisor's thread."""
        link = self._link
        if link is not None:
            with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                link.loop.call_soon_threadsafe(link.fail, reason)
