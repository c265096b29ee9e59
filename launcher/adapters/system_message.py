"""Adds a system message to every request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from launcher.adapters.base import Edit, Part
from launcher.core.errors import AdapterError, UserError
from launcher.core.responses import checked, quoted
from launcher.core.types import Json, Request, Response
from launcher.settings.component import component


class Strategy(Enum):
    """What happens to a system message that the request already has."""

    prepend = "prepend"
    append = "append"
    replace = "replace"


@component("adapters/system_message")
class SystemMessage(Edit):
    """Adds ``text`` as the system message.

    Chat requests get one system message at the start; several that they already have become one. By ``strategy``,
    ``prepend`` puts ``text`` before theirs, ``append`` after it, ``replace`` instead of it. ``separator`` stands
    between the two.

    Completions have no roles: with every strategy, ``text`` and ``separator`` come before each prompt. They are removed
    from an echoed answer, so that offsets and log-probabilities belong to the prompt that the caller sent. Raises
    `AdapterError` for prompts of token ids, which cannot be prefixed with text, and for other paths.

    Use it to evaluate a model with the system message that it is deployed with.

    Example: ``python launch.py 'adapters=[retry,system_message]' adapters.system_message.text='Answer in one word.'``
    """

    copies = True
    reads = Part.request | Part.answer
    rewrites = Part.request | Part.answer

    text: str = "You are a helpful assistant."
    strategy: Strategy = Strategy.prepend
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("adapters.system_message.text is empty: give the system message, or leave the adapter out")

    def reads_at(self, route: str) -> Part:
        return Part.request if route.endswith("/chat/completions") else self.reads  # only prompts are echoed

    def edit(self, request: Request) -> Request:
        body = request.body
        if request.route.endswith("/chat/completions"):
            try:
                messages = self._messages(body)
            except AttributeError:
                raise AdapterError("system_message: the chat request has a message that is no object") from None
            return request.with_body({**body, "messages": messages})
        if not request.route.endswith("/completions"):
            raise AdapterError(f"system_message: cannot add a system message to {request.path}")
        if body.get("echo") and body.get("stream"):
            raise AdapterError("system_message: 'echo' with 'stream' is not supported")
        return request.with_body({**body, "prompt": _prefixed(body.get("prompt"), self.text + self.separator)})

    def edit_answer(self, request: Request, response: Response) -> Response:
        if request.route.endswith("/chat/completions") or not request.body.get("echo") or not response.ok:
            return response
        response = checked(self.edit(request), response)  # an adapter in front would miss the first token's null
        if response.fault is not None:
            return response
        try:
            choices = [_without(choice, self.text + self.separator) for choice in response.body["choices"]]
        except (KeyError, TypeError, AttributeError):
            raise AdapterError(f"system_message: the echo has another form: {quoted(response.body)}") from None
        return response.with_body({**response.body, "choices": choices})

    def _messages(self, body: Mapping[str, Json]) -> list[Json]:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise AdapterError(f"system_message: 'messages' is {type(messages).__name__}, a list is needed")
        for message in messages:
            if message.get("role") == "system":
                break
        else:
            return [{"role": "system", "content": self.text}, *messages]
        given = [m.get("content") for m in messages if m.get("role") == "system"]
        own = [content for content in given if isinstance(content, str)]
        if len(own) < len(given):
            raise AdapterError("system_message: the request's own system message is not plain text")
        rest = [m for m in messages if m.get("role") != "system"]
        return [{"role": "system", "content": self.separator.join(self._ordered(own))}, *rest]

    def _ordered(self, own: Sequence[str]) -> list[str]:
        match self.strategy:
            case Strategy.prepend:
                return [self.text, *own]
            case Strategy.append:
                return [*own, self.text]
            case Strategy.replace:
                return [self.text]


def _prefixed(prompt: Json, prefix: str) -> Json:
    if isinstance(prompt, str):
        return prefix + prompt
    if isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt):
        return [prefix + p for p in prompt]
    raise AdapterError("system_message: 'prompt' holds token ids; only text can be prefixed with a system message")


def _without(choice: Mapping[str, Any], prefix: str) -> Json:
    """Remove the echoed prefix; a choice that does not start with it is left for the caller to judge."""
    text, logprobs = choice["text"], choice.get("logprobs")
    if not text.startswith(prefix):
        return choice
    if logprobs is None:
        return {**choice, "text": text[len(prefix) :]}
    offsets = logprobs["text_offset"]
    ends = [*offsets[1:], len(text)]
    first = next((i for i, end in enumerate(ends) if end > len(prefix) or offsets[i] >= len(prefix)), len(offsets))
    cut = {key: value[first:] if isinstance(value, list) else value for key, value in logprobs.items()}
    cut["text_offset"] = [max(0, offset - len(prefix)) for offset in offsets[first:]]
    return {**choice, "text": text[len(prefix) :], "logprobs": cut}
