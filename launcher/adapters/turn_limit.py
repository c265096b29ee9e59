"""Ends conversations that have too many turns."""

from __future__ import annotations

from launcher.adapters.base import Adapter, Part
from launcher.adapters.messages import is_chat, messages_of
from launcher.core.ranges import Count
from launcher.core.types import Handler, Request, Response
from launcher.settings.component import component


@component("adapters/turn_limit")
class TurnLimit(Adapter):
    """Refuses a chat request whose conversation already has ``max_turns`` answers of the assistant.

    An agent that runs in circles then gets HTTP 400 with the code ``turn_limit``, and its sample ends as refused.

    Use it for agents that may not end.

    Example: ``python launch.py 'adapters=[turn_limit,retry]' adapters.turn_limit.max_turns=20``
    """

    needs_task = False
    reads = Part.request
    rewrites = Part.none

    max_turns: Count = 50

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if not is_chat(request):
            return await call_next(request)
        turns = sum(message.get("role") == "assistant" for message in messages_of(request, "turn_limit"))
        if turns < self.max_turns:
            return await call_next(request)
        message = f"the conversation has {turns} turns, and adapters.turn_limit.max_turns is {self.max_turns}"
        error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": "turn_limit"}
        return Response(400, {"error": error})
