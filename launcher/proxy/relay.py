"""Passes an answer of the endpoint on to a client in the very calls that bring it, without a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from launcher.core.connections import IDEMPOTENT, Arriving
from launcher.core.errors import Failure, HttpError
from launcher.core.http_connection import HIGH_BYTES, Connection, silence
from launcher.core.types import Request
from launcher.proxy.head import ClientRequest, passed_on
from launcher.proxy.plan import Plan
from launcher.proxy.reply import Reply, lines_of
from launcher.proxy.upstream import MAX_ERROR_BYTES

SMALL_BYTES = 64 << 10
"""An answer up to this size leaves in one piece."""


def may_repeat(answer: Arriving, connection: Connection, error: HttpError) -> bool:
    """Tell whether a request may be sent once more: its kept connection was closed, as `Connections` says."""
    lost = error.failure is Failure.connection and not answer.touched
    return lost and connection.used and (answer.method in IDEMPOTENT or connection.unsent)


class Sender(Protocol):
    """What began a relay. Of `ended` and `left`, one is called once for each."""

    silence_timeout_s: float

    def ended(self, relay: Relay) -> None:
        """Take note that the answer has ended."""

    def left(self, relay: Relay) -> None:
        """Take note that the client left before the end."""


class Relay(Arriving):
    """An answer on its way to a client; what arrives together leaves together.

    An error of a completion is not passed on: ``error_body`` has it at the end, for another shape. The client's
    connection is told by ``on_done`` that nothing more comes, and whether the request has to be sent again.
    """

    failure: HttpError | None = None
    """Why the answer is not whole."""
    refusal: Exception | None = None
    """What an adapter raised."""
    error_body: bytes | None = None
    _left = False
    _heard = True
    """Whether the endpoint has sent something since the last look."""
    _silent_since = 0.0

    def __init__(
        self,
        source: Connection,
        sender: Sender,
        request: ClientRequest,
        plan: Plan,
        url: str,
        reply: Reply,
        on_done: Callable[[Relay, bool], None],
        given: Sequence[Request] = (),
    ) -> None:
        super().__init__(source, plan.head.method, url)
        self.request = request
        self.plan = plan
        self.reply = reply
        self.on_done = on_done
        self.start = time.perf_counter()
        self._given = given
        """The request as each adapter was given it, where there are any."""
        self._source = source
        self._sender = sender
        self._pending: list[bytes] = []

    @property
    def may_repeat(self) -> bool:
        """Whether the request may be sent once more."""
        return self.failure is not None and may_repeat(self, self._source, self.failure)

    # Called by the client's connection

    def send(self, head: bytes, body: bytes) -> None:
        self._source.ask(self, head, body)

    def cancel(self) -> None:
        """Drop the answer: its client has left."""
        if not self._complete and self.failure is None:
            self._left = True
            self.fail("the client has left", Failure.connection)

    def resume(self) -> None:
        """Read on: the client takes what it gets."""
        if self._connection is not None:
            self._connection.resume()

    def check_time(self, now: float) -> None:
        """Give up if the endpoint has been silent for too long: from one look to another, without a byte in between."""
        if self._heard:
            self._heard, self._silent_since = False, now
        elif now - self._silent_since > self._sender.silence_timeout_s:
            self.fail(silence(self, self._sender.silence_timeout_s), Failure.timeout)

    # Called by the endpoint's connection

    def arrived(self, part: bytes) -> int:
        self._pending.append(part)
        self.received += len(part)
        return HIGH_BYTES + 1 if self.reply.is_held else 0

    def wake(self) -> None:
        self._heard = True
        if self.status and self.failure is None:
            self._pass_on()

    def end(self) -> None:
        if self.failure is not None:
            return
        data = self._taken()
        if self.until_close and (error := self._cut_off(data)) is not None:
            self.reply.write(data)
            self.failure, self._connection = error, None
            self._sender.ended(self)
            return
        self._complete, self._connection = True, None
        if self.reply.started:
            self.reply.end(data)
        elif self.plan.is_completion and self.status >= 400:
            self.error_body = data
        elif self.method == "HEAD":
            self.reply.begin(self.status, self._lines(), self.header(b"content-length"))
            self.reply.end()
        else:
            self.reply.whole(self.status, self._lines(), data)
        self._sender.ended(self)

    def fail(self, reason: str, failure: Failure) -> None:
        if self._complete or self.failure is not None:
            return
        self.failure = HttpError(self.url, reason, failure)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._left:
            self._sender.left(self)
        else:
            self._sender.ended(self)

    def _cut_off(self, last: bytes) -> HttpError | None:
        """Return the error of a stream that ended with nothing but its connection."""
        try:
            self.reply.check_end(self, last)
        except HttpError as error:
            return error
        return None

    def _pass_on(self) -> None:
        """Write what has arrived, unless the rest comes soon."""
        if self.reply.started:
            if self._pending:
                self.reply.write(self._taken())
        elif self.plan.is_completion and self.status >= 400:
            if self.received > MAX_ERROR_BYTES:
                self.fail(f"the error has more than {MAX_ERROR_BYTES:,} bytes", Failure.answer)
        elif (length := self.header(b"content-length")) is None or int(length) > SMALL_BYTES:
            self.reply.begin(self.status, self._lines(), length, self._taken())

    def _lines(self) -> bytes:
        """Return the headers that go to the client."""
        lines: bytes | None = self.made.get("lines")
        if lines is None:
            lines = self.made["lines"] = lines_of(passed_on(self.headers))
        return lines

    def _taken(self) -> bytes:
        parts, self._pending = self._pending, []
        return parts[0] if len(parts) == 1 else b"".join(parts)
