"""Shows that an answer was cut by its token limit where the server calls that a stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from launcher.adapters.base import Downstream, Edit, Part, counting
from launcher.core.responses import STOPPED, limit_of, token_count
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Request, Response
from launcher.settings.component import component

COUNTED = ("answers", "corrected")


@component("adapters/finish_reason")
class FinishReason(Edit):
    """Changes ``finish_reason`` to ``length`` where an answer has as many tokens as it may, and its server says stop.

    Some servers call every end a stop, so that answers which were cut are scored. The number of tokens is that of
    ``usage``, so only requests for one choice are corrected, and no streams. An answer that ends by itself with its
    very last token becomes truncated too. ``finish_reason.json`` in the run folder counts ``answers`` and those
    ``corrected``; a resumed run adds to it.

    Use it if a server reports no ``length``: answers that were cut are scored as wrong there.

    Example: ``python launch.py 'adapters=[retry,finish_reason]'``
    """

    copies = True
    reads = Part.request | Part.answer
    rewrites = Part.answer

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def edit_answer(self, request: Request, response: Response) -> Response:
        limit = limit_of(request.body)
        if not response.ok or limit is None or request.body.get("echo"):
            return response
        self.counts["answers"] += 1
        choice = _only_choice(response.body)
        if choice is None or not _stopped_at(choice, response.body, limit):
            return response
        self.counts["corrected"] += 1
        body = {**response.body, "choices": [{**choice, "finish_reason": "length"}]}
        return response.with_body(body)

    def files(self) -> dict[str, str]:
        return {RunFolder.counted("finish_reason"): "adapters.finish_reason"}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with counting(RunFolder(folder).counts("finish_reason"), self.counts, COUNTED):
            yield


def _only_choice(body: Json) -> Mapping[str, Json] | None:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    only = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    return only if isinstance(only, Mapping) else None


def _stopped_at(choice: Mapping[str, Json], body: Mapping[str, Json], limit: Json) -> bool:
    used = token_count(body.get("usage"), "completion_tokens")
    finish = choice.get("finish_reason")
    return isinstance(finish, str) and finish in STOPPED and used is not None and used == limit
