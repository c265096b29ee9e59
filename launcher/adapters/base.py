"""The adapter interface: what an adapter is, what it reads, and when it runs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Flag, auto
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, ClassVar

from launcher.adapters.kept_counts import kept
from launcher.core.console import one_line
from launcher.core.errors import UserError
from launcher.core.event_stream import mapped
from launcher.core.redaction import redact
from launcher.core.types import Handler, Json, Report, Request, Response, route_of


class Part(Flag):
    """The parts of an exchange that are JSON. A proxy parses those that an adapter reads, and passes others as bytes.

    Paths, headers, statuses, times, and the bodies of errors belong to no part: every adapter may read them.
    """

    none = 0
    request = auto()
    """The body of a request."""
    answer = auto()
    """The body of a whole answer with a 2xx status."""
    events = auto()
    """The events of a stream."""
    all = request | answer | events


@dataclass(frozen=True)
class Downstream:
    """What is downstream of an adapter and answers its requests.

    ``deployment`` is what of it can change an answer, the checkpoint by its content; None where that is not known.
    ``adapters`` are those behind the adapter that can change an answer, with their settings.
    """

    deployment: Mapping[str, Json] | None
    adapters: Sequence[Json] = ()


@dataclass(frozen=True)
class Finished:
    """A run that has ended, also with an error: ``folder`` has its files, ``report`` what ``results.json`` says."""

    folder: Path
    report: Report


SHOWN = 60
"""Characters of what becomes of a parameter that are shown."""


@dataclass(frozen=True)
class Imposed:
    """A parameter that an adapter changes: the option that says so, and what becomes of the parameter."""

    name: str
    key: str
    change: str
    is_set: bool = True
    """Whether requests have it then."""

    def __str__(self) -> str:
        return f"{self.name} {one_line(redact(self.change), SHOWN)} ({self.key})"


CALLS = ("__call__", "edit", "edit_answer", "edit_events")
"""What of an adapter sees requests and answers."""


@dataclass
class Adapter(ABC):
    """One interceptor. It fails closed: what it cannot do correctly is an error, never an unmodified request."""

    changes_answers: ClassVar[bool] = True
    """Whether its settings can change an answer; a run may be resumed with other settings only where they cannot."""
    observer: ClassVar[bool] = False
    """Whether it only looks: the chain then passes on what it was given, and its failure fails no request."""

    keeps_answers: ClassVar[bool] = False
    """Whether it keeps answers for later requests; it then learns from `forgetting.on_failure` which to forget."""

    copies: ClassVar[bool] = False
    """Whether it changes nothing in place. What it gives back as the same object may then pass as the bytes it was."""

    sees_all: ClassVar[bool] = False
    """Whether it is wrong where it sees only some of the requests, as in one of several workers of a proxy."""

    needs_task: ClassVar[bool] = True
    """Whether it needs a task of asyncio, as `asyncio.timeout` and `asyncio.TaskGroup` do. A proxy saves tasks."""

    reads = Part.all
    """The parts that it looks at. `Unread` stands for the others, where a proxy did not parse them."""
    rewrites = Part.all
    """The parts of which it may pass on others than it was given."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a class with a call of its own, and without a declaration, read and rewrite everything, in a task."""
        super().__init_subclass__(**options)
        if not vars(cls).keys().isdisjoint(CALLS):
            cls.needs_task = vars(cls).get("needs_task", "__call__" in vars(cls) or cls.needs_task)
            cls.copies = vars(cls).get("copies", False)
            if "reads_at" not in vars(cls):
                cls.reads_at = Adapter.reads_at  # type: ignore[method-assign]
            cls.reads = vars(cls).get("reads", Part.all)
            cls.rewrites = Part.none if cls.observer else vars(cls).get("rewrites", Part.all)

    @abstractmethod
    async def __call__(self, request: Request, call_next: Handler) -> Response:
        """Answer ``request``, usually by calling ``call_next`` with it or with a changed copy."""

    def reads_at(self, route: str) -> Part:
        """Return the parts that it looks at in requests with a `Request.route`: no more than `reads`."""
        return self.reads

    def variables(self) -> dict[str, str]:
        """Return the environment variables whose secrets it needs, each by the key that names it."""
        return {}

    def imposes(self) -> Iterable[Imposed]:
        """Return the parameters of a body that its options change in every request: a score's record names them."""
        return ()

    def files(self) -> Mapping[str, str]:
        """Return the names of what it writes in the run folder, each with the key that sets it, or its own one."""
        return {}

    @asynccontextmanager
    async def running(self, folder: Path, downstream: Downstream) -> AsyncIterator[None]:
        """Hold resources for the time of the run, for instance an open file in the run ``folder``."""
        yield

    async def after(self, finished: Finished) -> None:  # noqa: B027
        """Do something once the run has ended and its report is written: send it, or make another one.

        It is called exactly once in each session of a run, also where that fails or is interrupted. What it raises is
        counted, and changes no result.
        """


class Changes:
    """Changes the events of one stream."""

    def change(self, event: Json) -> Json:
        """Return what becomes of an event."""
        return event

    def end(self) -> Iterable[Json]:
        """Return the events that follow once all have come."""
        return ()

    def is_alike(self, text: str) -> bool:
        """Tell whether `change` would treat further events as it treated the last one.

        They are equal to that but for the texts of their choice, in ``delta.content`` or ``text``. Those stand in
        ``text``, with a space between them. If true, the proxy need not parse them. In place of a call of `change` for
        each, it calls `count_alike`, and puts the texts where the last event had its own.
        """
        return False

    def count_alike(self, characters: int, events: int) -> None:
        """Take note of events for which `is_alike` was true."""


class Answered(Exception):
    """Raised by `Edit.edit`: its adapter answers the request itself, and nothing downstream sees it."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Edit(Adapter):
    """An adapter that waits for nothing: it changes a request, and then what comes back.

    A proxy runs a chain of them without a coroutine. `edit` may be called again with the same request, so that it
    counts nothing.
    """

    needs_task = False

    def edit(self, request: Request) -> Request:
        """Return the request that goes on, or raise an error, or `Answered`."""
        return request

    def edit_answer(self, request: Request, response: Response) -> Response:
        """Return the answer, or the error, that goes back to the one who sent ``request``."""
        return response

    def edit_events(self, request: Request) -> Changes | None:
        """Return what changes the events of a stream; None for nothing."""
        return None

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        try:
            edited = self.edit(request)
        except Answered as answered:
            return answered.response
        response = await call_next(edited)
        if response.events is None:
            return self.edit_answer(request, response)
        changes = self.edit_events(request)
        if changes is None:
            return response
        return replace(response, events=mapped(response.events, changes.change, changes.end))


def reads_of(adapters: Iterable[Adapter], path: str | None = None) -> Part:
    """Return the parts that at least one of the adapters reads, in requests to a path or in any."""
    route = None if path is None else route_of(path)
    return reduce(or_, (each.reads if route is None else each.reads_at(route) for each in adapters), Part.none)


def rewrites_of(adapters: Iterable[Adapter]) -> Part:
    """Return the parts that at least one of the adapters may rewrite."""
    return reduce(or_, (adapter.rewrites for adapter in adapters), Part.none)


@asynccontextmanager
async def counting(path: Path, counts: Mapping[str, int], names: Sequence[str]) -> AsyncIterator[None]:
    """Keep the ``counts`` of ``names`` in a file, added to what an earlier session of the run left there."""
    before = _counts(path)

    def total() -> dict[str, int]:
        return {name: before.get(name, 0) + counts.get(name, 0) for name in names}

    async with kept(path, total):
        yield


def _counts(path: Path) -> Mapping[str, int]:
    """Return the counts of an earlier session. Raises `UserError` for a damaged file."""
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(count) for name, count in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not the counts of an adapter ({error}); remove it to count from zero") from None


@asynccontextmanager
async def closing(events: AsyncIterator[Json]) -> AsyncIterator[AsyncIterator[Json]]:
    """Close a stream that an adapter wraps when its own reader leaves early, so that the server learns of it."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
