"""Refuses answers that contradict themselves or their request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

from launcher.adapters.base import Changes, Edit, Part
from launcher.core.errors import AdapterError
from launcher.core.responses import check_stream, checked, expected
from launcher.core.types import Json, Request, Response
from launcher.settings.component import component


@component("adapters/validate_response")
class ValidateResponse(Edit):
    """Fails every answer that an evaluation would not score, for instance one with too few choices.

    An evaluation makes these checks itself; this adapter makes them at its own place among the adapters, and for other
    clients. ``require`` are dotted paths that every answer must have, such as ``usage.completion_tokens``. A stream is
    checked as it passes, and breaks off with the error. At its end it must have had each choice, and in one of its
    events each of ``require``.

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
        number = expected(request) if request.route.endswith("/completions") else 0
        return _Checks(number, self.require)

    def edit_answer(self, request: Request, response: Response) -> Response:
        if not response.ok:
            return response
        response = checked(request, response) if request.route.endswith("/completions") else response
        if response.fault is not None:
            raise AdapterError(f"validate_response: {response.fault}")
        for path in self.require:
            if not _has(response.body, path):
                raise AdapterError(f"validate_response: the answer has no '{path}'")
        return response


class _Checks(Changes):
    """The checks of a stream: each event passes as it is, or fails the stream."""

    def __init__(self, number: int, require: Sequence[str]) -> None:
        self._without = set(range(number))
        """The choices that no event has had."""
        self._missing = list(require)

    def change(self, event: Json) -> Json:
        fault = check_stream([event])
        if fault is not None:
            raise AdapterError(f"validate_response: {fault}")
        self._without.difference_update([choice["index"] for choice in event["choices"]])
        if self._missing:
            self._missing = [path for path in self._missing if not _has(event, path)]
        return event

    def end(self) -> list[Json]:
        if self._without:
            raise AdapterError(f"validate_response: the stream has no choice {min(self._without)}")
        if self._missing:
            raise AdapterError(f"validate_response: no event of the stream has '{self._missing[0]}'")
        return []


def _has(body: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(body, Mapping) or body.get(name) is None:
            return False
        body = body[name]
    return True
