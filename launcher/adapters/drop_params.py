"""Drops parameters that a server does not take."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path

from launcher.adapters.base import Downstream, Edit, Imposed, Part, counting
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Request, Response
from launcher.settings.component import component


@component("adapters/drop_params")
class DropParams(Edit):
    """Drops the parameters of ``names`` from the body of every request that has them.

    A name may be a dotted path, for instance ``stream_options.include_usage``. An object that is empty after that is
    dropped too. ``drop_params.json`` in the run folder counts what was dropped of requests that got an answer
    or a stream, and no error. A resumed run adds to it.

    Use it if the server refuses a request for a parameter that a task or a harness sends.

    Example: ``python launch.py 'adapters=[retry,drop_params]'
    'adapters.drop_params.names=[logit_bias,stream_options.include_usage]'``
    """

    copies = True
    reads = Part.request
    rewrites = Part.request

    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.names or not all(all(name.split(".")) for name in self.names):
            raise UserError(f"adapters.drop_params.names is {self.names}; expected a list such as [logit_bias,user]")
        self.counts: Counter[str] = Counter()

    def edit(self, request: Request) -> Request:
        body, dropped = self._without_names(request.body)
        return request.with_body(body) if dropped else request

    def edit_answer(self, request: Request, response: Response) -> Response:
        if response.ok:
            self._count(request)
        return response

    def edit_events(self, request: Request) -> None:
        self._count(request)

    def imposes(self) -> Iterator[Imposed]:
        for name in self.names:
            yield Imposed(name, "adapters.drop_params.names", "left out", is_set=False)

    def _count(self, request: Request) -> None:
        self.counts.update(self._without_names(request.body)[1])

    def _without_names(self, body: Json) -> tuple[Json, list[str]]:
        """Return a body without the parameters, and which it had."""
        dropped = []
        for name in self.names:
            changed = _without(body, name.split("."))
            if changed is not body:
                dropped.append(name)
            body = changed
        return body, dropped

    def files(self) -> dict[str, str]:
        return {RunFolder.counted("drop_params"): "adapters.drop_params"}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        async with counting(RunFolder(folder).counts("drop_params"), self.counts, self.names):
            yield


def _without(body: Json, path: Sequence[str]) -> Json:
    """Return ``body`` itself if it does not have the path, else a copy without it."""
    first, *rest = path
    if not isinstance(body, Mapping) or first not in body:
        return body
    others = {name: value for name, value in body.items() if name != first}
    if not rest:
        return others
    inner = _without(body[first], rest)
    if inner is body[first]:
        return body
    return {name: inner if name == first else value for name, value in body.items()} if inner else others
