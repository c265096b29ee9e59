"""Passes an answer of the endpoint on to a client in the very calls that bring it, without a task."""

from __future__ import annotations

from collections.abc import Callable

from launcher.core.connections import IDEMPOTENT, Incoming
from launcher.core.errors import Failure, HttpError
from launcher.core.http_connection import HIGH_BYTES, Connection
from launcher.proxy.head import passed_on
from launcher.proxy.reply import Reply, lines_of
from launcher.proxy.upstream import MAX_ERROR_BYTES

SMALL_BYTES = 64 << 10
"""An answer up to this size leaves in one piece."""


def may_repeat(answer: Incoming, connection: Connection, was_kept: bool, error: HttpError) -> bool:
    """Tell whether a request may be sent once more: its kept connection was closed, as `Connections` says."""
    lost = error.failure is Failure.connection and not answer.touched
    return lost and was_kept and (answer.method in IDEMPOTENT or connection.unsent)


class Relay(Incoming):
    """An answer on its way to a client; what arrives together leaves together.

    With ``collects_errors`` an error is not passed on: ``error_body`` has it at the end, for another shape. The relay
    ends with one call of ``on_end``, unless it is cancelled; ``failure`` then says why the answer is not whole.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        url: str,
        silence_s: float,
        reply: Reply,
        collects_errors: bool,
        on_end: Callable[[Relay], None],
        on_cancel: Callable[[Relay], None],
    ) -> None:
        super().__init__(connection, method, url, silence_s)
        self.failure: HttpError | None = None
        self.refusal: Exception | None = None
        """What an adapter raised."""
        self.error_body: bytes | None = None
        self.reply = reply
        self._source = connection
        self._was_kept = connection.used
        self._collects_errors = collects_errors
        self._pending: list[bytes] = []
        self._on_end = on_end
        self._on_cancel = on_cancel
        self._heard = True
        """Whether the endpoint has sent something since the last look."""
        self._silent_since = 0.0

    @property
    def may_repeat(self) -> bool:
        """Whether the request may be sent once more."""
        return self.failure is not None and may_repeat(self, self._source, self._was_kept, self.failure)

    # Called by the client's connection

    def send(self, head: bytes, body: bytes) -> None:
        self._source.ask(self, head, body)

    def cancel(self) -> None:
        """Drop the answer: its client has left."""
        if not self._complete and self.failure is None:
            self._on_end = self._on_cancel
            self.close()

    def resume(self) -> None:
        """Read on: the client takes what it gets."""
        if self._connection is not None:
            self._connection.resume()

    def check_time(self, now: float) -> None:
        """Give up if the endpoint has been silent for too long: from one look to another, without a byte in between."""
        if self._heard:
            self._heard, self._silent_since = False, now
        elif now - self._silent_since > self._silence_timeout_s:
            self._silent()

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
        self._complete, self._connection = True, None
        data = self._taken()
        if self.reply.started:
            self.reply.end(data)
        elif self._collects_errors and self.status >= 400:
            self.error_body = data
        elif self.method == "HEAD":
            self.reply.begin(self.status, self._lines(), self.header(b"content-length"))
            self.reply.end()
        else:
            self.reply.whole(self.status, self._lines(), data)
        self._on_end(self)

    def fail(self, reason: str, failure: Failure) -> None:
        if self._complete or self.failure is not None:
            return
        self.failure = HttpError(self.url, reason, failure)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._on_end(self)

    def _pass_on(self) -> None:
        """Write what has arrived, unless the rest comes soon."""
        if self.reply.started:
            if self._pending:
                self.reply.write(self._taken())
        elif self._collects_errors and self.status >= 400:
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
