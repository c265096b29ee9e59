"""Whether the engine produces tokens, as shown by a token that it did produce."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling, TokenOutput

FRESH_S = 10.0
"""A token produced within this many seconds shows that the engine works."""


class Readiness:
    """Knows when the engine last produced a token; asks it for one when that is too long ago."""

    def __init__(self, runner: AsyncEngine, timeout_s: float) -> None:
        self._runner = runner
        self._timeout_s = timeout_s
        self._last = float("-inf")
        self._probing = asyncio.Lock()

    def produced(self) -> None:
        """Note that the engine just produced a token."""
        self._last = time.monotonic()

    async def problem(self) -> str | None:
        """Return why the engine cannot answer, or None after a token that it produced lately."""
        error = self._runner.state().error
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
        prompt = tuple(self._runner.tokenizer.encode("a")) or (0,)
        probe = GenerationRequest(f"ready-{time.monotonic_ns()}", prompt, Sampling(max_tokens=1, temperature=0))
        async with aclosing(cast("AsyncGenerator[TokenOutput, None]", self._runner.generate(probe))) as events:
            async for event in events:
                if event.tokens:
                    self.produced()
                    return None
        return "the engine ended a generation without a token"
