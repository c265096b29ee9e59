"""Sends one streamed request of a load test and takes the times of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.core.errors import TransportError
from launcher.core.responses import token_count
from launcher.core.types import Handler, Json, Request, Response
from launcher.load_test.measurement import Measurement

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CUT = "an answer without a token and without an end"


@dataclass(frozen=True)
class Asking:
    """Asks one endpoint; ``path`` is ``/v1/completions``, or that of chat where the server has no completions.

    With ``ignore_eos``, the server is asked to generate ``max_tokens`` tokens, also after the end of an answer.
    ``clock`` returns the time in seconds.
    """

    client: Handler
    model: str
    max_tokens: int
    path: str = COMPLETIONS
    ignore_eos: bool = False
    clock: Callable[[], float] = time.perf_counter

    async def ask(self, prompt: str, max_tokens: int | None = None, *, limit_s: float | None = None) -> Measurement:
        """Send a prompt, and return the times of its answer; a failure is an error of the measurement.

        After ``limit_s`` the answer is cut.
        """
        sent, events = self.clock(), list[float]()
        try:
            async with asyncio.timeout(limit_s):
                response = await self.client(Request(self.path, self._body(prompt, max_tokens)))
                if response.events is None:
                    return Measurement(sent, error=_refusal(response))
                return await self._read(response, sent, events)
        except TimeoutError:
            return Measurement(sent, self.clock(), events, len(events), cut=True)
        except TransportError as error:
            return Measurement(sent, error=str(error))

    async def _read(self, response: Response, sent: float, events: list[float]) -> Measurement:
        finished = False
        usage: Mapping[str, Json] = {}
        assert response.events is not None
        async for event in response.events:
            if error := event.get("error"):
                return Measurement(sent, error=str(error)[:200])
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                finished = finished or bool(choice.get("finish_reason"))
                if _text(choice):
                    events.append(self.clock())
        if not events and not finished:
            return Measurement(sent, error=CUT)
        tokens = token_count(usage, "completion_tokens") or len(events)
        prompt_tokens = token_count(usage, "prompt_tokens") or 0
        cached = token_count(usage.get("prompt_tokens_details"), "cached_tokens")
        return Measurement(sent, self.clock(), events, tokens, prompt_tokens, cached)

    def _body(self, prompt: str, max_tokens: int | None) -> dict[str, Json]:
        asked = {"prompt": prompt} if self.path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
        return {
            "model": self.model,
            **asked,
            "max_tokens": max_tokens or self.max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if self.ignore_eos else {}),
        }


def _text(choice: Mapping[str, Json]) -> Json:
    """Return the text of a streamed choice, also of reasoning."""
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


def _refusal(response: Response) -> str:
    body = response.body
    said = (body.get("error") or {}) if isinstance(body, Mapping) else {}
    message = said.get("message") if isinstance(said, Mapping) else said
    return f"HTTP {response.status}: {message or 'not a stream'}"[:200]
