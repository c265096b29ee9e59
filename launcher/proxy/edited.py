"""A request that adapters change without waiting for anything, and its answer: neither needs a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from launcher.adapters.base import Adapter, Edit
from launcher.asgi.errors import ApiError
from launcher.core.errors import AdapterError, Failure, HttpError
from launcher.core.http_connection import Connection
from launcher.core.types import Request, Response
from launcher.core.unread import Unread
from launcher.proxy.edited_stream import EditedEvents, EditedStream
from launcher.proxy.exchange import (
    EVENTS,
    JSON,
    LINGER_S,
    Parts,
    Seen,
    bytes_of,
    joined_headers,
    json_object,
    lines,
    response_of,
    seen_once,
    split_once,
)
from launcher.proxy.head import Head, Headers
from launcher.proxy.relay import Relay
from launcher.proxy.reply import Reply
from launcher.proxy.upstream import Prepared, Upstream


@dataclass(frozen=True)
class Edits:
    """A chain of adapters that wait for nothing, the outermost first; ``copy`` says that all of them only do that."""

    adapters: Sequence[Edit]
    copy: bool
    asking: Sequence[Callable[[Request], Request]]
    answering: Sequence[tuple[int, Callable[[Request, Response], Response]]]
    """How whole answers are changed, by the places of the adapters in the chain, the innermost first."""

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> Self | None:
        """Return a chain as edits; None if one of its adapters may have to wait."""
        edits = [each for each in adapters if isinstance(each, Edit) and type(each).__call__ is Edit.__call__]
        if not edits or len(edits) < len(adapters) or any(each.observer or each.keeps_answers for each in edits):
            return None
        places = [i for i, each in enumerate(edits) if type(each).edit_answer is not Edit.edit_answer]
        answering = [(i, edits[i].edit_answer) for i in reversed(places)]
        return cls(edits, all(each.copies for each in edits), [each.edit for each in edits], answering)

    def plan(self, upstream: Upstream, parts: Parts, head: Head) -> EditPlan | None:
        """Return what a head says of its requests; None for one that adapters cannot read, or that cannot be sent."""
        try:
            seen, unseen = split_once(upstream, head)
        except ApiError:
            return None
        path = head.target.decode("ascii")
        opened = upstream.opened(path, joined_headers(seen, unseen))
        return None if opened is None else EditPlan(self, upstream, parts, path, seen, unseen, opened)


class EditPlan(NamedTuple):
    """What a head alone says of a request that adapters edit."""

    edits: Edits
    upstream: Upstream
    parts: Parts
    path: str
    headers: Mapping[str, str]
    unseen: Headers
    opened: Prepared

    def edited(self, data: bytes, sample: str) -> Edited | None:
        """Return a request as the adapters change it; None if it goes elsewhere. Raises what they raise."""
        edits, upstream, parts, path, headers, unseen, opened = self
        body = json_object(data, upstream.settings.limits.body_bytes) if parts.reads_request else Unread(data)
        given, request = list[Request](), Request.of(path, body, headers, sample)
        for edit in edits.asking:
            given.append(request)
            request = edit(request)
        if request.headers is not headers:
            changed = upstream.opened(path, joined_headers(request.headers, unseen))
            if changed is None:
                return None
            opened = changed
        if request.path != path:
            return None
        made = data if request.body is body and not parts.rewrites_request else bytes_of(request.body)
        return Edited(self, given, opened, made)

    def stream(self, url: str, given: Sequence[Request]) -> EditedStream:
        """Return how the adapters change the stream that answers."""
        made = [adapter.edit_events(request) for adapter, request in zip(self.edits.adapters, given, strict=True)]
        if not self.parts.reads_events:
            return EditedStream()
        inner_first = [each for each in reversed(made) if each is not None]
        return EditedEvents(url, self.upstream.max_answer_bytes, inner_first, self.edits.copy)


class Edited(NamedTuple):
    """A request as adapters changed it, and as each of them was given it; ``opened`` is its head but the length."""

    plan: EditPlan
    given: Sequence[Request]
    opened: Prepared
    body: bytes


class EditedRelay(Relay):
    """An answer that adapters change in the calls that bring it; ``refusal`` is what one of them raised."""

    _closing: asyncio.TimerHandle | None = None

    def __init__(
        self,
        connection: Connection,
        edited: Edited,
        start: float,
        silence_s: float,
        reply: Reply,
        on_end: Callable[[Relay], None],
        on_cancel: Callable[[Relay], None],
    ) -> None:
        super().__init__(connection, "POST", edited.opened.url, silence_s, reply, False, on_end, on_cancel)
        self._stream: EditedStream | None = None
        self._plan, self._given, *_ = edited
        self._start = start

    # Called by the client's connection

    def cancel(self) -> None:
        self._forget_stream()
        super().cancel()

    # Called by the endpoint's connection

    def wake(self) -> None:
        self._heard = True
        if self.status and not self._complete and self.failure is None:
            self._guarded(self._look)

    def end(self) -> None:
        if self._complete or self.failure is not None:
            return
        self._complete, self._connection = True, None
        self._guarded(self._reply_whole)

    def fail(self, reason: str, failure: Failure) -> None:
        if self._stream is not None and self._stream.done:
            self._end_late()  # all events are there
        else:
            super().fail(reason, failure)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Take a step, whose error ends the answer."""
        try:
            step()
        except Exception as error:
            self.refusal = error
            self._drop_connection()
        if self._complete:
            if self._stream is not None:
                self._forget_stream()
            self._on_end(self)

    def _forget_stream(self) -> None:
        self._stream = None
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _drop_connection(self) -> None:
        self._complete = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _look(self) -> None:
        """Pass on what has arrived of a stream; a whole answer is waited for."""
        stream = self._stream
        if stream is None and (seen := seen_once(self)).is_stream and self.status < 400:
            stream = self._begun(seen)
        if stream is None:
            self._check_size()
        elif not stream.done and self._pending:
            self.reply.write(stream.fed(self._taken()))
            stream.check()
            if stream.done:
                self._closing = asyncio.get_running_loop().call_later(LINGER_S, self._end_late)

    def _begun(self, seen: Seen) -> EditedStream:
        """Return the stream that a head announces, which is passed on."""
        self._stream = stream = self._plan.stream(self.url, self._given)
        self.reply.collects = True
        self.reply.begin(self.status, seen.lines + EVENTS, None)
        self.reply.collects = False
        return stream

    def _reply_whole(self) -> None:
        """Reply with the answer, or with the rest of a stream."""
        seen, stream = seen_once(self), self._stream
        if stream is None and seen.is_stream and self.status < 400:
            stream = self._begun(seen)
        if stream is not None:
            self._end_stream(stream, b"" if stream.done else stream.fed(self._taken()))
            return
        self._check_size()
        plan, data = self._plan, self._taken()
        read_bytes = plan.upstream.max_answer_bytes if plan.parts.reads_answer else None
        response = given = response_of(self, seen, data, self._start, read_bytes)
        for place, edit_answer in plan.edits.answering:
            response = edit_answer(self._given[place], response)
        if response.fault is not None:
            raise AdapterError(response.fault)
        unchanged = response.body is given.body and not plan.parts.rewrites_answer and self.status < 300
        self.reply.whole(response.status, lines(response, seen, JSON), data if unchanged else bytes_of(response.body))

    def _check_size(self) -> None:
        if self.received > (most := self._plan.upstream.most_bytes(self.status)):
            raise HttpError(self.url, f"the answer has more than {most:,} bytes")

    def _end_late(self) -> None:
        """End a stream whose events are all there, though the endpoint leaves it open."""
        stream = self._stream
        if stream is not None and not self._complete:
            self._drop_connection()
            self._guarded(lambda: self._end_stream(stream, b""))

    def _end_stream(self, stream: EditedStream, data: bytes) -> None:
        try:
            stream.check()
            data += stream.rest()
            stream.check()
        except Exception:
            self.reply.write(data)
            raise
        self.reply.end(data)
