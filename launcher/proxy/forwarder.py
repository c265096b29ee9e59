"""Answers each request of a client: through the adapters, as bytes from the endpoint, or by the proxy itself."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from launcher.adapters.base import Adapter
from launcher.adapters.chain import pipeline
from launcher.adapters.failures import Failures, shown_name
from launcher.asgi.errors import ApiError, clipped
from launcher.core.connections import Incoming
from launcher.core.errors import AdapterError, AdapterStop, Failure, TransportError
from launcher.core.types import PROXIED, Request, Response, route_of
from launcher.proxy.connection import ClientRequest, Started
from launcher.proxy.edited import Edited, EditedRelay, EditPlan, Edits
from launcher.proxy.exchange import Exchange, Parts
from launcher.proxy.head import REQUEST_ID, Head, passed_on, without
from launcher.proxy.metrics import COMPLETIONS, IN_FLIGHT, LEFT, LOST, RECEIVED, STOPPED, Counters
from launcher.proxy.relay import SMALL_BYTES, Relay
from launcher.proxy.reply import Reply, dumped, lines_of
from launcher.proxy.upstream import MAX_ERROR_BYTES, Prepared, Upstream, error_body

log = logging.getLogger("launcher.proxy")

OWN = "/_proxy/"
"""The paths of the proxy itself; any other path is the endpoint's."""
RUN_PATH = f"{OWN}run/"
"""``/_proxy/run/<id>/...`` is ``/...`` of the proxy of that run, and of no other."""
HEALTH, METRICS = f"{OWN}health", f"{OWN}metrics"
ADAPTED = ("/v1/completions", "/v1/chat/completions")
OTHERS = (
    *("/v1/responses", "/v1/messages", "/generate", "/generate_stream", "/invocations", "/completion", "/infill"),
    *("/api/generate", "/api/chat", "/api/v1/chat"),
)
"""Paths at which servers generate text, too, in forms that no adapter knows: of OpenAI, Anthropic, vLLM and others."""
FAILURES = {Failure.connection: 502, Failure.timeout: 504, Failure.answer: 502}
CLIENT_CLOSED_REQUEST = 499
"""The status that is counted for a client that left before its answer (nginx's code)."""


class Plan(NamedTuple):
    """What a head alone says of its request: whether it is a completion, and how it passes as bytes if it does.

    ``head`` names no run any more. ``parts`` is what adapters read of the request; None where they do not see it.
    ``edits`` is there where none of them has to wait for anything.
    """

    head: Head
    is_completion: bool
    parts: Parts | None = None
    passes: Prepared | None = None
    edits: EditPlan | None = None


_exchange: ContextVar[Exchange] = ContextVar("exchange")
"""The one whose request the adapters have now."""


def _ask(request: Request) -> Awaitable[Response]:
    return _exchange.get().ask(request)


@dataclass(eq=False)
class Forwarder:
    """The proxy's answers. ``key`` is what clients must send; None admits all."""

    upstream: Upstream
    adapters: Sequence[Adapter]
    failures: Failures
    counters: Counters
    run: str
    key: str | None = field(repr=False)
    is_draining: Callable[[], bool]
    health: Callable[[], bytes] = bytes
    """Returns the metrics of the run's health."""

    def __post_init__(self) -> None:
        self._expected = None if self.key is None else f"Bearer {self.key}".encode()
        self._parts = Parts.of(self.adapters)
        self._chain = pipeline(self.adapters, _ask, self.failures)
        self._edits = Edits.of(self.adapters)
        self._needs_task = any(adapter.needs_task for adapter in self.adapters)
        self._changing = [shown_name(adapter) for adapter in self.adapters if adapter.changes_answers]
        self._stopped: str | None = None
        self._number = 0
        self._samples = f"{PROXIED}{self.run}.{os.getpid()}"

    # What a head alone decides

    def refusal(self, head: Head) -> ApiError | None:
        """Return why a request must not pass."""
        named = head.run.decode("latin-1") if head.run is not None else _run_of(head.path)
        if named is not None and named != self.run:
            message = f"this is the proxy of the run {self.run}, not of {named[:64]!r}"
            return ApiError(421, message, code="other_run")
        if self._expected is None or head.path == HEALTH or self._has_key(head.authorization):
            return None
        return ApiError(
            401,
            "the proxy's key is missing or wrong; send it as 'Authorization: Bearer <key>'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _has_key(self, sent: bytes | None) -> bool:
        return sent is not None and self._expected is not None and hmac.compare_digest(sent, self._expected)

    def refused(self, error: ApiError, reply: Reply) -> None:
        """Answer a request that must not pass."""
        id = _new_id()
        log.warning("%d: %s", error.status, error, extra={"request_id": id.decode()})
        reply.error(error, id)
        self.counters.finished(error.status, 0.0, reply.sent)

    # A whole request, without a task

    def relay(self, request: ClientRequest, reply: Reply, on_end: Callable[[bool], None]) -> Started | None:
        """Return how a request passes as bytes over an idle connection; None if it has to be answered otherwise."""
        plan = self._plan_of(request)
        if plan.edits is None and plan.passes is None:
            return None
        connections, origin = self.upstream.connections, self.upstream.origin
        connection = connections.take(origin)
        if connection is None:
            return None
        edited = None if plan.edits is None else self._edited(plan.edits, request.body)
        passes = plan.passes if edited is None else edited.opened
        if passes is None:
            connections.give_back(connection, origin)
            return None
        head = plan.head
        start, own = time.perf_counter(), self.counters.own
        own[IN_FLIGHT] += 1
        own[RECEIVED] += len(request.body)

        def ended(relay: Relay) -> None:
            own[IN_FLIGHT] -= 1
            if relay.failure is not None and relay.may_repeat:
                own[RECEIVED] -= len(request.body)
                on_end(True)
                return
            if relay.failure is not None:
                self._fail(head, reply, relay.failure)
            elif relay.refusal is not None:
                self._fail(head, reply, relay.refusal)
            elif relay.error_body is not None:
                self._shape(relay, relay.error_body, reply)
            is_good = 200 <= reply.status < 300 and relay.failure is None and relay.refusal is None
            own[COMPLETIONS if is_good else LOST] += plan.is_completion
            self.counters.finished(reply.status, time.perf_counter() - start, reply.sent)
            on_end(False)

        def cancelled(relay: Relay) -> None:
            own[IN_FLIGHT] -= 1
            own[LEFT] += 1
            own[LOST] += plan.is_completion
            self.counters.finished(reply.status or CLIENT_CLOSED_REQUEST, time.perf_counter() - start, reply.sent)

        silence_s = self.upstream.settings.silence_timeout_s
        if edited is not None:
            adapted = EditedRelay(connection, edited, start, silence_s, reply, ended, cancelled)
            return adapted, b"%bContent-Length: %d\r\n\r\n" % (passes.head, len(edited.body)), edited.body
        made = Relay(connection, head.method, passes.url, silence_s, reply, plan.is_completion, ended, cancelled)
        return made, passes.head, request.body

    def _edited(self, plan: EditPlan, body: bytes) -> Edited | None:
        """Return a request as the adapters change it; None if that takes a coroutine, which then finds any error."""
        if self._stopped is not None or self.counters.stopped:
            return None
        try:
            return plan.edited(body, self._new_sample())
        except Exception:
            return None

    def drives(self, request: ClientRequest) -> bool:
        """Tell whether a request goes through adapters of which none needs a task."""
        return self._plan_of(request).parts is not None and not self._needs_task

    def _plan_of(self, request: ClientRequest) -> Plan:
        plan: Plan | None = request.head.made.get("plan")
        if plan is None:
            plan = request.head.made["plan"] = self._plan(_without_run(request.head), len(request.body))
        return plan

    def _plan(self, head: Head, length: int) -> Plan:
        is_completion = _is_completion(head)
        if self.adapters and is_completion:
            parts = Parts.of(self.adapters, head.path)
            edits = None if self._edits is None else self._edits.plan(self.upstream, parts, head)
            return Plan(head, is_completion, parts, edits=edits)
        if head.path.startswith(OWN) or (self.adapters and _is_disguised(head)) or self._evades(head):
            return Plan(head, is_completion)
        return Plan(head, is_completion, passes=self.upstream.prepared(head, length))

    # A whole request, in a task

    async def answer(self, request: ClientRequest, reply: Reply) -> None:
        """Answer a request; where that is not possible any more, the reply stays incomplete."""
        start, own = time.perf_counter(), self.counters.own
        own[IN_FLIGHT] += 1
        own[RECEIVED] += len(request.body)
        try:
            plan = self._plan_of(request)
            if plan.head is not request.head:
                request = request._replace(head=plan.head)
            if plan.parts is not None:
                exchange = self._exchange(request, plan.parts, reply)
                _exchange.set(exchange)
                response = await self._chain(exchange.request)
                if response.events is None:
                    exchange.reply(response, reply)
                else:
                    await exchange.reply_events(response, reply)
            else:
                await self._answer(request, plan, reply)
            own[COMPLETIONS if 200 <= reply.status < 300 else LOST] += plan.is_completion
        except asyncio.CancelledError:
            own[LEFT] += 1
            own[LOST] += _is_completion(request.head)
            raise
        except Exception as error:
            own[LOST] += _is_completion(request.head)
            self._fail(request.head, reply, error)
        finally:
            own[IN_FLIGHT] -= 1
            self.counters.finished(reply.status or CLIENT_CLOSED_REQUEST, time.perf_counter() - start, reply.sent)

    async def _answer(self, request: ClientRequest, plan: Plan, reply: Reply) -> None:
        """Answer a request that no adapter sees."""
        head = plan.head
        if head.path.startswith(OWN):
            self._own(head, reply)
        elif self.adapters and _is_disguised(head):
            message = (
                f"the path {clipped(repr(head.path), 80)}: the adapters know it only as one of {', '.join(ADAPTED)}"
            )
            raise ApiError(400, message, code="malformed_request")
        elif self._evades(head):
            message = (
                f"{head.path} would go past the adapters {', '.join(self._changing)}; they know {' and '.join(ADAPTED)}"
            )
            raise ApiError(400, message, code="path_not_adapted")
        else:
            await self._passed(request, reply, is_completion=plan.is_completion)

    def _evades(self, head: Head) -> bool:
        """Tell whether a request generates text in another way than those that change answers know."""
        return bool(self._changing) and head.method == "POST" and _plain(head.path).endswith(OTHERS)

    def _own(self, head: Head, reply: Reply) -> None:
        if head.method not in ("GET", "HEAD"):
            raise ApiError(405, f"{head.method} {head.path}: expected GET", code="method_not_allowed")
        if head.path == HEALTH:
            draining = self.is_draining()
            state = {"status": "draining" if draining else "ok", "run": self.run, "pid": os.getpid()}
            reply.whole(503 if draining else 200, b"Content-Type: application/json\r\n", dumped(state))
        elif head.path == METRICS:
            kind = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            reply.whole(200, kind, self.counters.text(self.run) + self.health())
        else:
            raise ApiError(404, f"{head.path}: the proxy has {HEALTH} and {METRICS}", code="not_found")

    def _exchange(self, request: ClientRequest, parts: Parts, reply: Reply) -> Exchange:
        """Begin to let the adapters see a request and its answer."""
        if self._stopped is not None:
            raise _has_stopped(self._stopped)
        if (worker := self.counters.stopped_by()) is not None:
            raise _has_stopped(f"the proxy's log says why, at worker {worker}")
        return Exchange(self.upstream, parts, self._parts, request, self._new_sample(), reply)

    def _new_sample(self) -> str:
        self._number += 1
        return f"{self._samples}.{self._number}/0"

    # As bytes

    async def _passed(self, request: ClientRequest, reply: Reply, *, is_completion: bool) -> None:
        head = request.head
        target, headers = head.target.decode("ascii"), self.upstream.headers(head)
        incoming = await self.upstream.send(head.method, target, headers, request.body)
        try:
            if is_completion and incoming.status >= 400:
                self._shape(incoming, await incoming.read(MAX_ERROR_BYTES), reply)
            else:
                await self._copied(incoming, reply)
        finally:
            incoming.close()

    async def _copied(self, incoming: Incoming, reply: Reply) -> None:
        """Pass the bytes of an answer on as they come."""
        headers, length = lines_of(passed_on(incoming.headers)), incoming.header(b"content-length")
        if incoming.method == "HEAD":
            reply.begin(incoming.status, headers, length)
            reply.end()
        elif incoming.complete or (length is not None and int(length) <= SMALL_BYTES):
            reply.whole(incoming.status, headers, await incoming.read(max(SMALL_BYTES, incoming.received)))
        else:
            reply.begin(incoming.status, headers, length)
            async for part in incoming.chunks():
                reply.write(part)
                await reply.drained()
            reply.end()

    def _shape(self, incoming: Incoming, data: bytes, reply: Reply) -> None:
        """Pass an error of the endpoint on in OpenAI's shape; a compressed one stays as it is."""
        headers = passed_on(incoming.headers)
        if incoming.header(b"content-encoding") not in (None, b"identity"):
            reply.whole(incoming.status, lines_of(headers), data)
            return
        typed = [*without(headers, frozenset({b"content-type"})), (b"Content-Type", b"application/json")]
        reply.whole(incoming.status, lines_of(typed), dumped(error_body(incoming.status, data)))

    # Failures

    def _fail(self, head: Head, reply: Reply, error: Exception) -> None:
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
            self.counters.failed(error.failure.value)
            return ApiError(FAILURES[error.failure], f"the endpoint: {error}", code=f"upstream_{error.failure.value}")
        self.counters.failed("adapter")
        if isinstance(error, AdapterStop):
            self._stopped = str(error)
            self.counters.own[STOPPED] = 1
            log.error("worker %d: an adapter has ended the evaluation: %s", self.counters.worker, error)
            return _has_stopped(str(error))
        if isinstance(error, AdapterError):
            return ApiError(502, f"an adapter refuses the request or its answer: {error}", code="adapter_refused")
        return ApiError(
            500, f"internal error ({type(error).__name__}); the proxy's log says more", code="internal_error"
        )


def _has_stopped(reason: str) -> ApiError:
    return ApiError(503, f"an adapter has ended the evaluation: {reason}", code="adapter_stop")


def _is_completion(head: Head) -> bool:
    return head.method == "POST" and route_of(head.path).endswith(ADAPTED)


def _is_disguised(head: Head) -> bool:
    """Tell whether a path that adapters do not know may be that of a completion for the endpoint."""
    return head.method == "POST" and not _is_completion(head) and _plain(head.path).endswith(ADAPTED)


def _plain(path: str) -> str:
    """Return a path as the most tolerant of servers read it: any case, backslashes, codes, parameters, empty parts."""
    segments = [part.partition(";")[0] for part in unquote(path).replace("\\", "/").lower().split("/")]
    return "/" + "/".join(filter(None, segments))


def _run_of(path: str) -> str | None:
    """Return the id of the run that a path names."""
    return path.removeprefix(RUN_PATH).partition("/")[0] if path.startswith(RUN_PATH) else None


def _without_run(head: Head) -> Head:
    """Return a head whose path names no run."""
    run = _run_of(head.path)
    if run is None:
        return head
    named = len(RUN_PATH) + len(run)
    path, target = head.path[named:], head.target[named:]
    if not path.startswith("/"):
        path, target = f"/{path}", b"/" + target
    return head._replace(path=path, target=target, made={})


def _id_of(head: Head) -> bytes:
    """Return the id that the client gave its request, or a new one."""
    sent = next((value for name, value in head.headers if name.lower() == REQUEST_ID), b"")
    return sent if 0 < len(sent) <= 128 and sent.isascii() and sent.decode().isprintable() else _new_id()


def _new_id() -> bytes:
    """Return a random UUID, which each server takes as an id."""
    drawn = os.urandom(16).hex().encode()
    return b"%b-%b-4%b-8%b-%b" % (drawn[:8], drawn[8:12], drawn[13:16], drawn[17:20], drawn[20:])
