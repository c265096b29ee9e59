"""Answers requests for streams from servers that give whole answers only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace

from launcher.adapters.base import Adapter, Part
from launcher.core.errors import AdapterError
from launcher.core.responses import quoted
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/stream_expand")
class StreamExpand(Adapter):
    """Sends requests for streams as requests for whole answers, and returns those as streams.

    It is for servers without streaming, and for adapters behind it that need whole answers. A choice becomes one event
    with its text and one with its finish reason; ``usage`` follows if the client asked for it. The first event comes
    when the whole answer is there.

    Use it if a client asks for streams and the server cannot stream.

    Example: ``python launch.py 'adapters=[retry,stream_expand]'``
    """

    needs_task = False
    reads = Part.request | Part.answer
    rewrites = Part.request | Part.answer

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        if not request.route.endswith("/completions") or not request.body.get("stream"):
            return await call_next(request)
        options = request.body.get("stream_options")
        body = {name: value for name, value in request.body.items() if name not in ("stream", "stream_options")}
        response = await call_next(replace(request, body=body))
        if not response.ok or response.fault is not None or response.events is not None:
            return response
        if not isinstance(response.body, Mapping) or not isinstance(response.body.get("choices"), list):
            raise AdapterError(f"stream_expand: the answer to {request.path} has no list of 'choices'")
        wants_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        try:
            events = list(_events(response.body, usage=wants_usage))
        except (KeyError, TypeError, AttributeError):
            raise AdapterError(f"stream_expand: a choice has another form: {quoted(response.body)}") from None
        return replace(response, body=None, events=_stream(events))


async def _stream(events: list[Json]) -> AsyncIterator[Json]:
    for event in events:
        yield event


def _events(body: Mapping[str, Json], *, usage: bool) -> Iterator[Json]:
    in_chat = any("message" in choice for choice in body["choices"])
    head = {name: value for name, value in body.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk" if in_chat else "text_completion"
    for choice in body["choices"]:
        first, last = _chat_parts(choice) if in_chat else _text_parts(choice)
        yield {**head, "choices": [first]}
        yield {**head, "choices": [last]}
    if usage:
        yield {**head, "choices": [], "usage": body.get("usage")}


def _chat_parts(choice: Mapping[str, Json]) -> tuple[Json, Json]:
    message = {name: value for name, value in choice["message"].items() if value is not None}
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    rest = {name: value for name, value in choice.items() if name != "message"}
    return {**rest, "delta": message, "finish_reason": None}, {
        "index": choice["index"],
        "delta": {},
        "finish_reason": choice.get("finish_reason"),
    }


def _text_parts(choice: Mapping[str, Json]) -> tuple[Json, Json]:
    last = {"index": choice["index"], "text": "", "logprobs": None, "finish_reason": choice.get("finish_reason")}
    return {**choice, "finish_reason": None}, last
