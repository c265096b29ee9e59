"""Asks for streams where a client asks for whole answers, and puts the events together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from launcher.adapters.base import Adapter, Part, closing
from launcher.core.errors import AdapterError
from launcher.core.responses import check_stream, error_message, quoted
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component

TEXTS = ("content", "text", "reasoning_content", "reasoning", "refusal", "arguments")
"""Fields of a delta that are parts of one text."""


@component("adapters/stream_coalesce")
class StreamCoalesce(Adapter):
    """Sends requests for whole answers as streams, and returns the events as the one answer that they make.

    Gateways end a connection on which nothing comes for minutes; a stream keeps it busy. Texts, tool calls and
    log-probabilities are joined by choice; ``usage`` is asked for, and is that of the last event. Requests that ask for
    a stream, or for ``echo``, pass unchanged. Raises `AdapterError` for a stream that has an error or no choices.

    Use it if a gateway ends requests that take minutes.

    Example: ``python launch.py 'adapters=[retry,stream_coalesce]'``
    """

    needs_task = False
    reads = Part.request | Part.events
    rewrites = Part.request | Part.events

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        body = request.body
        if not request.route.endswith("/completions") or body.get("stream") or body.get("echo"):
            return await call_next(request)
        options = body.get("stream_options")
        if not isinstance(options, Mapping | None):
            raise AdapterError(f"stream_coalesce: 'stream_options' is no object: {quoted(options)}")
        options = {**(options or {}), "include_usage": True}
        response = await call_next(replace(request, body={**body, "stream": True, "stream_options": options}))
        if response.events is None:
            return response
        whole = await coalesced(response.events, in_chat=request.route.endswith("/chat/completions"))
        return replace(response, body=whole, events=None)


async def coalesced(events: AsyncIterator[Json], *, in_chat: bool) -> dict[str, Json]:
    """Return the answer that the events of a stream make. Raises `AdapterError`."""
    head: dict[str, Json] = {}
    choices: dict[int, dict[str, Json]] = {}
    async with closing(events):
        async for event in events:
            fault = check_stream([event])
            if fault is not None:
                raise AdapterError(f"stream_coalesce: {error_message(event) or fault}")
            head |= {k: v for k, v in event.items() if k not in ("choices", "object") and v is not None}
            try:
                for choice in event.get("choices") or ():
                    _add(choices.setdefault(choice["index"], {"index": choice["index"]}), choice)
            except (TypeError, AttributeError, ValueError):
                raise AdapterError(f"stream_coalesce: an event has another form: {quoted(event)}") from None
    if not choices:
        raise AdapterError("stream_coalesce: the stream ended without a choice")
    made = [_whole(choices[index], in_chat) for index in sorted(choices)]
    return {**head, "object": "chat.completion" if in_chat else "text_completion", "choices": made}


def _add(whole: dict[str, Json], part: Mapping[str, Json]) -> None:
    """Add the part of a choice, or of an object in it, that one event has."""
    for name, value in part.items():
        if value is None:
            whole.setdefault(name, None)
        elif name in TEXTS and isinstance(value, str):
            whole[name] = (whole.get(name) or "") + value
        elif name == "tool_calls":
            whole[name] = calls = whole.get(name) or {}
            _add_calls(calls, value)
        elif isinstance(value, list):
            whole[name] = [*(whole.get(name) or ()), *value]
        elif isinstance(value, Mapping):
            whole[name] = inner = dict(whole.get(name) or {})
            _add(inner, value)
        else:
            whole[name] = value


def _add_calls(calls: dict[int, dict[str, Json]], parts: Json) -> None:
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("index"), int):
            raise AdapterError(f"stream_coalesce: a part of a tool call has no index: {quoted(part)}")
        _add(calls.setdefault(part["index"], {}), {k: v for k, v in part.items() if k != "index"})


def _whole(choice: dict[str, Json], in_chat: bool) -> dict[str, Json]:
    """Return a choice in the form of a whole answer."""
    choice.setdefault("finish_reason", None)
    if not in_chat:
        return {"text": "", "logprobs": None, **choice}
    delta = choice.pop("delta", None) or {}
    if not isinstance(delta, dict):
        raise AdapterError(f"stream_coalesce: a delta has another form: {quoted(delta)}")
    calls = delta.pop("tool_calls", None)
    made = {"tool_calls": [calls[index] for index in sorted(calls)]} if calls else {}
    return {**choice, "message": {"role": "assistant", "content": None, **delta, **made}}
