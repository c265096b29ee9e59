"""Puts all system messages of a chat into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.adapters.base import Edit, Part
from launcher.adapters.messages import is_chat, messages_of, text_of
from launcher.core.errors import AdapterError
from launcher.core.types import Json, Request
from launcher.settings.component import component

ROLES = ("system", "developer")


@component("adapters/consolidate_system")
class ConsolidateSystem(Edit):
    """Joins the system and developer messages of a chat with ``separator``, and puts them first, as one system message.

    Many chat templates take one system message at the beginning, and drop or refuse others. ``into_user`` is for
    templates without a system role: the text then comes before that of the first user message. A chat without such
    messages stays as it is. Raises `AdapterError` for a system message that is not text. So does ``into_user`` without
    a user message of text.

    Use it if the server refuses or ignores the second system message of a chat.

    Example: ``python launch.py 'adapters=[retry,consolidate_system]' adapters.consolidate_system.into_user=true``
    """

    copies = True
    reads = Part.request
    rewrites = Part.request

    separator: str = "\n\n"
    into_user: bool = False

    def edit(self, request: Request) -> Request:
        if not is_chat(request):
            return request
        messages = messages_of(request, "consolidate_system")
        system = [message for message in messages if message.get("role") in ROLES]
        if not system:
            return request
        text = self.separator.join(text_of(message, "consolidate_system") for message in system)
        others = [message for message in messages if message.get("role") not in ROLES]
        made = self._in_user(text, others) if self.into_user else [{"role": "system", "content": text}, *others]
        return request.with_body({**request.body, "messages": made})

    def _in_user(self, text: str, messages: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        place = next((n for n, message in enumerate(messages) if message.get("role") == "user"), None)
        if place is None:
            raise AdapterError("consolidate_system: the chat has no user message to hold the system message")
        first = text + self.separator + text_of(messages[place], "consolidate_system")
        return [*messages[:place], {**messages[place], "content": first}, *messages[place + 1 :]]
