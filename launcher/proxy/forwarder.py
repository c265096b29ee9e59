"""Answers each request of a client: through the adapters, as bytes from the endpoint, or by the proxy itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from launcher.adapters.base import Adapter
from launcher.adapters.chain import pipeline
from launcher.adapters.failures import Failures
from launcher.asgi.errors import ApiError, clipped
from launcher.core.connections import Incoming
from launcher.core.types import PROXIED, Request, Response
from launcher.proxy.adapted_bodies import Parts
from launcher.proxy.admission import Admission
from launcher.proxy.edited import EditedRelay
from launcher.proxy.edits import Edited, EditPlan
from launcher.proxy.exchange import Exchange
from launcher.proxy.failures import Failing, shape
from launcher.proxy.head import ClientRequest, Head, passed_on
from launcher.proxy.metrics import COMPLETIONS, IN_FLIGHT, LEFT, LOST, RECEIVED, Counters
from launcher.proxy.own_pages import OwnPages
from launcher.proxy.plan import Plan, Planner
from launcher.proxy.relay import SMALL_BYTES, Relay
from launcher.proxy.reply import Reply, lines_of
from launcher.proxy.routes import ADAPTED, OWN, is_completion
from launcher.proxy.service import Started
from launcher.proxy.upstream import MAX_ERROR_BYTES, Upstream

CLIENT_CLOSED_REQUEST = 499
"""The status that is counted for a client that left before its answer (nginx's code)."""


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

    def __post_init__(self) -> None:
        self.silence_timeout_s = self.upstream.settings.silence_timeout_s
        self.pages = OwnPages(self.run, self.counters, self.is_draining)
        self._admission = Admission(self.run, self.key)
        self._planner = Planner(self.upstream, self.adapters)
        self._failing = Failing(self.counters)
        self._parts = Parts.of(self.adapters)
        self._chain = pipeline(self.adapters, _ask, self.failures)
        self._needs_task = any(adapter.needs_task for adapter in self.adapters)
        self._number = 0
        self._samples = f"{PROXIED}{self.run}.{os.getpid()}"

    def refusal(self, head: Head) -> ApiError | None:
        """Return why a request with a head must not pass."""
        return self._admission.refusal(head)

    def refused(self, error: ApiError, reply: Reply) -> None:
        """Answer a request that must not pass."""
        self._failing.refused(error, reply)

    # A whole request, without a task

    def relay(self, request: ClientRequest, reply: Reply, on_done: Callable[[Relay, bool], None]) -> Started | None:
        """Return how a request passes as bytes over an idle connection; None if it has to be answered otherwise."""
        plan = self._planner.plan(request)
        edits, passes = plan.edits, plan.passes
        if edits is None and passes is None:
            return None
        connections, origin = self.upstream.connections, self.upstream.origin
        source = connections.take(origin)
        if source is None:
            return None
        if edits is not None:
            edited = self._edited(edits, request.body)
            if edited is None:
                connections.give_back(source, origin)
                return None
            given, opened, body = edited
            head = b"%bContent-Length: %d\r\n\r\n" % (opened.head, len(body))
            relay: Relay = EditedRelay(source, self, request, plan, opened.url, reply, on_done, given)
        else:
            assert passes is not None
            head, body = passes.head, request.body
            relay = Relay(source, self, request, plan, passes.url, reply, on_done)
        own = self.counters.own
        own[IN_FLIGHT] += 1
        own[RECEIVED] += len(request.body)
        return relay, head, body

    def ended(self, relay: Relay) -> None:
        """Count a relay that has ended, and answer with its error if it has one."""
        own, reply, failure = self.counters.own, relay.reply, relay.failure
        own[IN_FLIGHT] -= 1
        if failure is not None and relay.may_repeat:
            own[RECEIVED] -= len(relay.request.body)
            relay.on_done(relay, True)
            return
        error = failure or relay.refusal
        if error is not None:
            self._failing.fail(relay.plan.head, reply, error)
        elif relay.error_body is not None:
            shape(relay, relay.error_body, reply)
        if relay.plan.is_completion:
            is_good = error is None and self._failing.is_good(relay.plan.head, reply)
            own[COMPLETIONS if is_good else LOST] += 1
        self.counters.finished(reply.status, time.perf_counter() - relay.start, reply.sent)
        relay.on_done(relay, False)

    def left(self, relay: Relay) -> None:
        """Count a relay whose client has left."""
        own, reply = self.counters.own, relay.reply
        own[IN_FLIGHT] -= 1
        own[LEFT] += 1
        own[LOST] += relay.plan.is_completion
        self.counters.finished(reply.status or CLIENT_CLOSED_REQUEST, time.perf_counter() - relay.start, reply.sent)

    def _edited(self, plan: EditPlan, body: bytes) -> Edited | None:
        """Return a request as the adapters change it; None if that takes a coroutine, which then finds any error."""
        if self.counters.stopped:
            return None
        try:
            return plan.edited(body, self._new_sample())
        except Exception:
            return None

    def drives(self, request: ClientRequest) -> bool:
        """Tell whether a request goes through adapters of which none needs a task."""
        return self._planner.plan(request).parts is not None and not self._needs_task

    # A whole request, in a task

    async def answer(self, request: ClientRequest, reply: Reply) -> None:
        """Answer a request; where that is not possible any more, the reply stays incomplete."""
        start, own = time.perf_counter(), self.counters.own
        own[IN_FLIGHT] += 1
        own[RECEIVED] += len(request.body)
        try:
            plan = self._planner.plan(request)
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
            if plan.is_completion:
                own[COMPLETIONS if self._failing.is_good(plan.head, reply) else LOST] += 1
        except asyncio.CancelledError:
            own[LEFT] += 1
            own[LOST] += is_completion(request.head)
            raise
        except Exception as error:
            own[LOST] += is_completion(request.head)
            self._failing.fail(request.head, reply, error)
        finally:
            own[IN_FLIGHT] -= 1
            self.counters.finished(reply.status or CLIENT_CLOSED_REQUEST, time.perf_counter() - start, reply.sent)

    async def _answer(self, request: ClientRequest, plan: Plan, reply: Reply) -> None:
        """Answer a request that no adapter sees."""
        head = plan.head
        if head.path.startswith(OWN):
            self.pages.answer(head, reply)
        elif self._planner.is_disguised(head):
            message = (
                f"the path {clipped(repr(head.path), 80)}: the adapters know it only as one of {', '.join(ADAPTED)}"
            )
            raise ApiError(400, message, code="malformed_request")
        elif self._planner.evades(head):
            changing = ", ".join(self._planner.changing)
            message = f"{head.path} would go past the adapters {changing}; they know {' and '.join(ADAPTED)}"
            raise ApiError(400, message, code="path_not_adapted")
        else:
            await self._passed(request, reply, is_completion=plan.is_completion)

    def _exchange(self, request: ClientRequest, parts: Parts, reply: Reply) -> Exchange:
        """Begin to let the adapters see a request and its answer."""
        self._failing.check()
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
                shape(incoming, await incoming.read(MAX_ERROR_BYTES), reply)
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
            data = await incoming.read(max(SMALL_BYTES, incoming.received))
            reply.check_end(incoming, data)
            reply.whole(incoming.status, headers, data)
        else:
            reply.begin(incoming.status, headers, length)
            async for part in incoming.chunks():
                reply.write(part)
                await reply.drained()
            reply.check_end(incoming)
            reply.end()
