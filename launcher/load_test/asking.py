"""Sends one streamed request of a load test and takes the times of its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping

from launcher.core.errors import TransportError
from launcher.core.types import Handler, Json, Request, Response
from launcher.load_test.measurement import Measurement

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CUT = "an answer without a token and without an end"


class Asking:
    """Asks one endpoint; ``path`` is ``/v1/completions``, or that of chat where the server has no completions."""

    def __init__(self, client: Handler, model: str, max_tokens: int, path: str = COMPLETIONS) -> None:
        self._client, self._model, self._max_tokens, self.path = client, model, max_tokens, path

    def over(self, path: str) -> Asking:
        """Return the same over another path."""
        return Asking(self._client, self._model, self._max_tokens, path)

    async def ask(self, prompt: str, max_tokens: int | None = None) -> Measurement:
        """Send a prompt, and return the times of its answer; a failure is an error of the measurement."""
        sent = time.perf_counter()
        try:
            response = await self._client(Request(self.path, self._body(prompt, max_tokens)))
            if response.events is None:
                return Measurement(sent, error=_refusal(response))
            return await _read(response, sent)
        except TransportError as error:
            return Measurement(sent, error=str(error))

    def _body(self, prompt: str, max_tokens: int | None) -> dict[str, Json]:
        asked = {"prompt": prompt} if self.path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
        return {
            "model": self._model,
            **asked,
            "max_tokens": max_tokens or self._max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _read(response: Response, sent: float) -> Measurement:
    events: list[float] = []
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
                events.append(time.perf_counter())
    if not events and not finished:
        return Measurement(sent, error=CUT)
    tokens = int(usage.get("completion_tokens") or len(events))
    return Measurement(sent, time.perf_counter(), events, tokens, int(usage.get("prompt_tokens") or 0))


def _text(choice: Mapping[str, Json]) -> Json:
    """Return the text of a streamed choice, also of reasoning."""
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


def _refusal(response: Response) -> str:
    body = response.body
    said = (body.get("error") or {}) if isinstance(body, Mapping) else {}
    message = said.get("message") if isinstance(said, Mapping) else said
    return f"HTTP {response.status}: {message or 'not a stream'}"[:200]
