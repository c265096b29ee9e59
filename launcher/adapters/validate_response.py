"""Refuses answers that contradict themselves or their request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import field, replace
from typing import Any, ClassVar

from launcher.adapters.base import Adapter, Part, closing
from launcher.core.errors import AdapterError
from launcher.core.responses import check_stream, checked
from launcher.core.types import Handler, Json, Request, Response
from launcher.settings.component import component


@component("adapters/validate_response")
class ValidateResponse(Adapter):
    """Fails every answer that an evaluation would not score, for instance one with too few choices.

    An evaluation makes these checks itself; this adapter makes them at its own place among the adapters, and for other
    clients. ``require`` are dotted paths that every answer must have, such as ``usage.completion_tokens``. A stream is
    checked as it passes, and breaks off with the error.

    Use it for other clients than our evaluation, and for fields that every answer must have.

    Example: ``python launch.py 'adapters=[validate_response,retry]'
    'adapters.validate_response.require=[usage.completion_tokens]'``
    """

    changes_answers: ClassVar[bool] = False
    needs_task = False
    reads = Part.all
    rewrites = Part.none

    require: list[str] = field(default_factory=list)

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        response = await call_next(request)
        if not response.ok:
            return response
        if response.events is not None:
            return replace(response, events=_checked_events(response.events))
        response = checked(request, response) if request.path.endswith("/completions") else response
        if response.fault is not None:
            raise AdapterError(f"validate_response: {response.fault}")
        for path in self.require:
            if not _has(response.body, path):
                raise AdapterError(f"validate_response: the answer has no '{path}'")
        return response


async def _checked_events(events: AsyncIterator[Json]) -> AsyncIterator[Json]:
    async with closing(events):
        async for event in events:
            fault = check_stream([event])
            if fault is not None:
                raise AdapterError(f"validate_response: {fault}")
            yield event


def _has(body: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(body, Mapping) or body.get(name) is None:
            return False
        body = body[name]
    return True
