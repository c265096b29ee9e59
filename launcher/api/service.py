"""What every route needs: the engine, its metrics, and whether it produces tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from launcher.api.body import Schema, read
from launcher.api.metrics import Metrics
from launcher.asgi.config import FrontendConfig
from launcher.asgi.errors import ApiError, clipped
from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling, TokenOutput

FRESH_S = 10.0
"""A token produced within this many seconds shows that the engine works."""


class Readiness:
    """Remembers when the engine last produced a token, and asks it for one when that is too long ago."""

    def __init__(self, engine: AsyncEngine, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._last = float("-inf")
        self._probing = asyncio.Lock()

    def produced(self) -> None:
        """Record that the engine just produced a token."""
        self._last = time.monotonic()

    async def problem(self) -> str | None:
        """Return why the engine cannot answer; None if it produced a token within the last `FRESH_S` seconds."""
        error = self._engine.state().error
        if error is not None or self._fresh():
            return error
        async with self._probing:
            return None if self._fresh() else await self._probe()

    def _fresh(self) -> bool:
        return time.monotonic() - self._last < FRESH_S

    async def _probe(self) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._one_token()
        except TimeoutError:
            return f"the engine produced no token within {self._timeout_s:g} s"
        except Exception as error:
            return f"the engine failed to produce a token: {type(error).__name__}: {error}"

    async def _one_token(self) -> str | None:
        prompt = tuple(self._engine.tokenizer.encode("a")) or (0,)
        probe = GenerationRequest(f"ready-{time.monotonic_ns()}", prompt, Sampling(max_tokens=1, temperature=0))
        async with aclosing(cast("AsyncGenerator[TokenOutput, None]", self._engine.generate(probe))) as outputs:
            async for output in outputs:
                if output.tokens:
                    self.produced()
                    return None
        return "the engine ended a generation without a token"


@dataclass(frozen=True)
class Service:
    """One app's engine with its metrics. ``created`` is the time of its start, in seconds since 1970."""

    engine: AsyncEngine
    metrics: Metrics
    readiness: Readiness
    created: int
    log: logging.Logger
    frontend: FrontendConfig = FrontendConfig()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the model: its own first, then its aliases."""
        return tuple(dict.fromkeys((self.engine.model, *self.frontend.aliases)))

    def name(self, requested: str | None) -> str:
        """Return the model's name in an answer: the one that the request has, or the model's own for None.

        Raises `ApiError` 404 for any other.
        """
        if requested is None:
            return self.engine.model
        if requested not in self.names:
            raise _unknown_model(requested, self.names)
        return requested

    async def read(self, request: Request, schema: type[Schema]) -> Schema:
        """Read the body of a request. Raises `ApiError`."""
        return await read(request, schema, self.frontend.limits.body_bytes)


def _unknown_model(name: str, names: tuple[str, ...]) -> ApiError:
    served = ", ".join(f"`{each}`" for each in names)
    message = f"The model `{clipped(name)}` does not exist; expected one of {served}"
    return ApiError(404, message, "model", "model_not_found")


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)
