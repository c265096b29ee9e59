"""Refuses answers that contradict themselves or their request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from launcher.adapters.base import Changes, Edit, Part
from launcher.core.errors import AdapterError
from launcher.core.responses import check_stream, checked
from launcher.core.types import Json, Request, Response
from launcher.settings.component import component


@component("adapters/validate_response")
class ValidateResponse(Edit):
    """Fails every answer that an evaluation would not score, for instance one with too few choices.

    An evaluation makes these checks itself; this adapter makes them at its own place among the adapters, and for other
    clients. ``require`` are dotted paths that every answer must have, such as ``usage.completion_tokens``. A stream is
    checked as it passes, and breaks off with the error.

    Use it for other clients than our evaluation, and for fields that every answer must have.

    Example: ``python launch.py 'adapters=[validate_response,retry]'
    'adapters.validate_response.require=[usage.completion_tokens]'``
    """

    changes_answers: ClassVar[bool] = False
    copies = True
    reads = Part.all
    rewrites = Part.none

    require: list[str] = field(default_factory=list)

    def edit_events(self, request: Request) -> Changes:
        return _Checks()

    def edit_answer(self, request: Request, response: Response) -> Response:
        if not response.ok:
            return response
        response = checked(request, response) if request.path.endswith("/completions") else response
        if response.fault is not None:
            raise AdapterError(f"validate_response: {response.fault}")
        for path in self.require:
            if not _has(response.body, path):
                raise AdapterError(f"validate_response: the answer has no '{path}'")
        return response


class _Checks:
    """The checks of a stream: each event passes as it is, or fails the stream."""

    def change(self, event: Json) -> Json:
        fault = check_stream([event])
        if fault is not None:
            raise AdapterError(f"validate_response: {fault}")
        return event

    def end(self) -> list[Json]:
        return []


def _has(body: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(body, Mapping) or body.get(name) is None:
            return False
        body = body[name]
    return True
