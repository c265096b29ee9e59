"""Ends conversations that have too many turns."""

from __future__ import annotations

from launcher.adapters.base import Answered, Edit, Part
from launcher.adapters.messages import is_chat, messages_of
from launcher.core.ranges import Count
from launcher.core.types import Request, Response
from launcher.settings.component import component


@component("adapters/turn_limit")
class TurnLimit(Edit):
    """Refuses a chat request whose conversation already has ``max_turns`` answers of the assistant.

    An agent that runs in circles then gets HTTP 400 with the code ``turn_limit``, and its sample ends as refused.

    Use it for agents that may not end.

    Example: ``python launch.py 'adapters=[turn_limit,retry]' adapters.turn_limit.max_turns=20``
    """

    copies = True
    reads = Part.request
    rewrites = Part.none

    max_turns: Count = 50

    def edit(self, request: Request) -> Request:
        if not is_chat(request):
            return request
        turns = sum(message.get("role") == "assistant" for message in messages_of(request, "turn_limit"))
        if turns < self.max_turns:
            return request
        message = f"the conversation has {turns} turns, and adapters.turn_limit.max_turns is {self.max_turns}"
        error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": "turn_limit"}
        raise Answered(Response(400, {"error": error}))
