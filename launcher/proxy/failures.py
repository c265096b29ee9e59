"""What clients get, and the log, when a request fails."""

from __future__ import annotations

import logging
import os

from launcher.asgi.errors import ApiError
from launcher.core.connections import Arriving
from launcher.core.console import one_line
from launcher.core.errors import AdapterError, AdapterStop, Failure, TransportError
from launcher.core.redaction import redact
from launcher.proxy.head import REQUEST_ID, Head, passed_on, without
from launcher.proxy.metrics import STOPPED, Counters
from launcher.proxy.reply import Reply, dumped, lines_of
from launcher.proxy.upstream import LOGGED, error_body

log = logging.getLogger("launcher.proxy")

FAILURES = {Failure.connection: 502, Failure.timeout: 504, Failure.answer: 502}


class Failing:
    """Answers requests that fail, and knows whether an adapter has ended the evaluation."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._stopped: str | None = None

    def check(self) -> None:
        """Raise `ApiError` if an adapter has ended the evaluation."""
        if self._stopped is not None:
            raise _has_stopped(self._stopped)
        if (worker := self._counters.stopped_by()) is not None:
            raise _has_stopped(f"the proxy's log says why, at worker {worker}")

    def is_good(self, head: Head, reply: Reply) -> bool:
        """Tell whether a completion got an answer; an error behind a good status is counted and logged."""
        if reply.error_said is None:
            return 200 <= reply.status < 300
        self._counters.failed(Failure.answer.value)
        said, extra = one_line(redact(reply.error_said), LOGGED), {"request_id": _id_of(head).decode()}
        log.warning("%s %s: %d, and an error: %s", head.method, head.path[:200], reply.status, said, extra=extra)
        return False

    def refused(self, error: ApiError, reply: Reply) -> None:
        """Answer a request that must not pass."""
        id = _new_id()
        log.warning("%d: %s", error.status, error, extra={"request_id": id.decode()})
        reply.error(error, id)
        self._counters.finished(error.status, 0.0, reply.sent)

    def fail(self, head: Head, reply: Reply, error: Exception) -> None:
        """Answer with an error; a stream that has begun gets it as its last event, and stays incomplete."""
        known, id = self._explained(error), _id_of(head)
        is_bug = known.status == 500
        level, trace = (logging.ERROR, error) if is_bug else (logging.WARNING, None)
        called, extra = (head.method, head.path[:200], known.status, known), {"request_id": id.decode()}
        log.log(level, "%s %s: %d: %s", *called, exc_info=trace, extra=extra)
        if not reply.started:
            reply.error(known, id)
        elif not reply.complete:
            reply.fail(known)

    def _explained(self, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, TransportError):
            self._counters.failed(error.failure.value)
            return ApiError(FAILURES[error.failure], f"the endpoint: {error}", code=f"upstream_{error.failure.value}")
        self._counters.failed("adapter")
        if isinstance(error, AdapterStop):
            self._stopped = str(error)
            self._counters.own[STOPPED] = 1
            log.error("worker %d: an adapter has ended the evaluation: %s", self._counters.worker, error)
            return _has_stopped(str(error))
        if isinstance(error, AdapterError):
            return ApiError(502, f"an adapter refuses the request or its answer: {error}", code="adapter_refused")
        return ApiError(
            500, f"internal error ({type(error).__name__}); the proxy's log says more", code="internal_error"
        )


def shape(incoming: Arriving, data: bytes, reply: Reply) -> None:
    """Pass an error of the endpoint on in OpenAI's shape; a compressed one stays as it is."""
    headers = passed_on(incoming.headers)
    if incoming.header(b"content-encoding") not in (None, b"identity"):
        reply.whole(incoming.status, lines_of(headers), data)
        return
    typed = [*without(headers, frozenset({b"content-type"})), (b"Content-Type", b"application/json")]
    reply.whole(incoming.status, lines_of(typed), dumped(error_body(incoming.status, data)))


def _has_stopped(reason: str) -> ApiError:
    return ApiError(503, f"an adapter has ended the evaluation: {reason}", code="adapter_stop")


def _id_of(head: Head) -> bytes:
    """Return the id that the client gave its request, or a new one."""
    sent = next((value for name, value in head.headers if name.lower() == REQUEST_ID), b"")
    return sent if 0 < len(sent) <= 128 and sent.isascii() and sent.decode().isprintable() else _new_id()


def _new_id() -> bytes:
    """Return a random UUID, which each server takes as an id."""
    drawn = os.urandom(16).hex().encode()
    return b"%b-%b-4%b-8%b-%b" % (drawn[:8], drawn[8:12], drawn[13:16], drawn[17:20], drawn[20:])
