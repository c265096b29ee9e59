"""Writes the content of chat messages in one of its two forms."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from launcher.adapters.base import Edit, Part
from launcher.adapters.messages import is_chat, messages_of
from launcher.core.errors import AdapterError
from launcher.core.types import Json, Request
from launcher.settings.component import component

PARTS = frozenset({"text", "image_url", "input_audio", "audio_url", "video_url", "file", "refusal"})
"""The types of content parts of OpenAI's API, and vLLM's for audio and video."""


class Content(Enum):
    """The form of a message's content: ``text`` wherever it is text only, or always a list of ``parts``."""

    text = "text"
    parts = "parts"


@component("adapters/omni")
class Omni(Edit):
    """Gives every message of a chat the same form of content, as servers of text, images, audio or video need it.

    ``content`` is the form. ``content=text`` joins text parts to one text, with ``separator`` between them, and leaves
    messages with other parts alone. ``content=parts`` makes a list of parts of every text. Short forms that datasets
    have, such as ``{"type": "image", "image": URL}``, become those of OpenAI's API. Raises `AdapterError` for a part of
    an unknown type.

    Use it if a server takes one of the two forms of content only, or if items hold short forms of images.

    Example: ``python launch.py 'adapters=[retry,omni]' adapters.omni.content=parts``
    """

    copies = True
    reads = Part.request
    rewrites = Part.request

    content: Content = Content.text
    separator: str = ""

    def edit(self, request: Request) -> Request:
        if not is_chat(request):
            return request
        messages = [self._message(message) for message in messages_of(request, "omni")]
        return request.with_body({**request.body, "messages": messages})

    def _message(self, message: Mapping[str, Json]) -> Json:
        content = message.get("content")
        if content is None:
            return message
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else _parts(content)
        if self.content is Content.text and all(part["type"] == "text" for part in parts):
            return {**message, "content": self.separator.join(part["text"] for part in parts)}
        return {**message, "content": parts}


def _parts(content: Json) -> list[dict[str, Json]]:
    if not isinstance(content, list) or not content:
        raise AdapterError("omni: the content of a message is neither a text nor a list of parts")
    return [_part(part) for part in content]


def _part(part: Json) -> dict[str, Json]:
    """Return a part in OpenAI's form. Raises `AdapterError`."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image", "audio", "video"):
        source = part.get(kind, part.get("url"))
        if not isinstance(source, str):
            raise AdapterError(f"omni: a part of type '{kind}' has no URL")
        return {"type": f"{kind}_url", f"{kind}_url": {"url": source}}
    if not isinstance(kind, str) or kind not in PARTS or (kind == "text" and not isinstance(part.get("text"), str)):
        raise AdapterError(f"omni: a content part has the type {kind!r}; expected one of {', '.join(sorted(PARTS))}")
    url = part.get(kind)
    return {**part, kind: {"url": url}} if kind.endswith("_url") and isinstance(url, str) else dict(part)
