"""Gives a model its earlier reasoning back in conversations of several turns."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from launcher.adapters.base import Adapter, Part
from launcher.adapters.messages import REASONING, is_chat, messages_of
from launcher.core.ranges import Count
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/reasoning_replay")
class ReasoningReplay(Adapter):
    """Remembers the reasoning of answers, and adds it to the same messages when a later request quotes them.

    Clients send back an assistant's text and tool calls but leave out ``reasoning_content``, which models that reason
    between tool calls need. A message is known by the conversation up to it and its own content. ``max_messages``
    bounds what is remembered; the oldest goes first. Messages that have reasoning keep theirs, and streams are not
    remembered. In front of ``reasoning``, servers that return tags work too.

    Use it for agents and conversations of several turns with models that reason between tool calls.

    Example: ``python launch.py 'adapters=[retry,reasoning_replay,reasoning]'``
    """

    sees_all: ClassVar[bool] = True
    needs_task = False
    reads = Part.request | Part.answer
    rewrites = Part.request

    max_messages: Count = 10_000

    def __post_init__(self) -> None:
        self._known: OrderedDict[str, Mapping[str, Json]] = OrderedDict()

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if not is_chat(request):
            return await call_next(request)
        messages = messages_of(request, "reasoning_replay")
        made, digest = [], ""
        for message in messages:
            digest = _digest(digest, message)
            known = self._known.get(digest, {}) if message.get("role") == "assistant" else {}
            made.append({**known, **message} if not _reasoning(message) else message)
        response = await call_next(replace(request, body={**request.body, "messages": made}))
        if response.ok and response.events is None and response.fault is None:
            self._remember(digest, response.body)
        return response

    def _remember(self, conversation: str, body: Json) -> None:
        for choice in body.get("choices") or () if isinstance(body, Mapping) else ():
            message = choice.get("message") if isinstance(choice, Mapping) else None
            reasoning = _reasoning(message) if isinstance(message, Mapping) else {}
            if reasoning:
                self._known[_digest(conversation, message)] = reasoning
        while len(self._known) > self.max_messages:
            self._known.popitem(last=False)


def _reasoning(message: Mapping[str, Json]) -> dict[str, Json]:
    return {name: message[name] for name in REASONING if message.get(name)}


def _digest(before: str, message: Any) -> str:
    """Return the digest of a conversation that ``before`` is the digest of, with one more message."""
    found = message.get("tool_calls")
    calls = [call.get("function") for call in found if isinstance(call, Mapping)] if isinstance(found, list) else []
    content = [before, message.get("role"), message.get("content") or "", calls, message.get("tool_call_id")]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
