"""Reads the messages of chat requests, and refuses requests of another shape."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core.errors import AdapterError
from launcher.core.types import Json, Request

CHAT = "/chat/completions"
REASONING = ("reasoning_content", "reasoning")
"""The fields of a message, or of a delta, in which servers return reasoning."""


def is_chat(request: Request) -> bool:
    """Tell whether a request is for chat completions."""
    return request.route.endswith(CHAT)


def messages_of(request: Request, adapter: str) -> list[Mapping[str, Json]]:
    """Return the messages of a chat request. Raises `AdapterError`, which names the adapter, for another shape."""
    found = request.body.get("messages")
    if not isinstance(found, list) or not all(isinstance(message, Mapping) for message in found):
        raise AdapterError(f"{adapter}: the chat request has no list of 'messages'")
    return found


def text_of(message: Mapping[str, Json], adapter: str) -> str:
    """Return the text of a message, also of one whose content is a list of text parts. Raises `AdapterError`."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return "".join(part["text"] for part in content)
    raise AdapterError(f"{adapter}: the content of a {message.get('role')} message is not text")


def _is_text(part: Json) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
