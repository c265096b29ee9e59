"""The engine behind the API: generation goes through Triton, all else directly to the engine in this process."""

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
    """Sends requests to the Triton of a supervisor. A stream that ends early frees the engine's slot."""

    def __init__(self, engine: AsyncEngine, handler: RequestHandler, supervisor: Supervisor) -> None:
        self.model = engine.model
        self.tokenizer = engine.tokenizer
        self.context_length = engine.context_length
        self.capacity = engine.capacity
        self.grammars = engine.grammars
        self._engine = engine
        self._handler = handler
        self._supervisor = supervisor
        self._client: GrpcClient | None = None
        supervisor.attach(engine, self._on_lost, self._responses)

    @property
    def vocab_size(self) -> int:
        return self._engine.vocab_size

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        client, finished = self._current_client(), False
        try:
            async with aclosing(cast("AsyncGenerator[TokenOutput, None]", client.generate(request))) as events:
                async for event in events:
                    finished = event.finish is not None
                    yield event
        finally:
            if not finished:
                self._handler.withdraw(request.id)

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

    def _responses(self) -> int:
        """Return how many responses of Triton the current client has received."""
        return self._client.responses if self._client else 0

    def _current_client(self) -> GrpcClient:
        """Return the client of the running Triton. Raises `EngineUnavailable` if none runs."""
        if self._supervisor.error is not None:
            raise EngineUnavailable(self._supervisor.error)
        client = self._client
        if client is None or client.failed is not None or client.loop is not asyncio.get_running_loop():
            if client is not None:
                self._handler.end_feed(client.feed)
            client = self._client = GrpcClient(*self._supervisor.grpc())
            self._handler.trust(client.feed)
        return client

    def _on_lost(self, reason: str) -> None:
        """Fail the open requests, because Triton is lost; called in the supervisor's thread."""
        client = self._client
        if client is not None:
            with suppress(RuntimeError):  # the loop has closed, so no request is open
                client.loop.call_soon_threadsafe(client.fail, reason)
