"""The answer to a request that adapters change without waiting for anything: it needs no coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from launcher.core.errors import AdapterError, Failure, HttpError
from launcher.proxy.adapted_bodies import bytes_of, response_of
from launcher.proxy.adapted_headers import EVENTS, JSON, Seen, lines, seen_once
from launcher.proxy.edited_stream import EditedStream
from launcher.proxy.edits import EditPlan
from launcher.proxy.exchange import LINGER_S
from launcher.proxy.relay import Relay


class EditedRelay(Relay):
    """An answer that adapters change in the calls that bring it; ``refusal`` is what one of them raised."""

    _closing: asyncio.TimerHandle | None = None
    _stream: EditedStream | None = None

    @property
    def _edits(self) -> EditPlan:
        edits = self.plan.edits
        assert edits is not None
        return edits

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
        try:
            self._reply_whole()
        except Exception as error:
            self.refusal = error
        if self._stream is not None:
            self._forget_stream()
        self._sender.ended(self)

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
            self._sender.ended(self)

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
        self._stream = stream = self._edits.stream(self.url, self._given)
        self.reply.collects = True
        self.reply.begin(self.status, seen.lines + EVENTS, None)
        self.reply.collects = False
        return stream

    def _reply_whole(self) -> None:
        """Reply with the answer, or with the rest of a stream."""
        seen, stream = self.made.get("seen") or seen_once(self), self._stream
        if stream is None and seen.is_stream and self.status < 400:
            stream = self._begun(seen)
        if stream is not None:
            self._end_stream(stream, b"" if stream.done else stream.fed(self._taken()))
            return
        self._check_size()
        edits, data = self._edits, self._taken()
        self.reply.check_end(self, data)
        response = came = response_of(self, seen, data, self.start, edits.read_bytes)
        for place, edit_answer in edits.edits.answering:
            response = edit_answer(self._given[place], response)
        if response.fault is not None:
            raise AdapterError(response.fault)
        unchanged = response.body is came.body and not edits.parts.rewrites_answer and self.status < 300
        self.reply.whole(response.status, lines(response, seen, JSON), data if unchanged else bytes_of(response.body))

    def _check_size(self) -> None:
        if self.received > (most := self._edits.upstream.most_bytes(self.status)):
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
            self.reply.check_end(self, data)
        except Exception:
            self.reply.write(data)
            raise
        self.reply.end(data)
