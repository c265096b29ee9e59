"""A circuit breaker: while the server is away, no request is sent; requests that it lost are sent again."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from launcher.core.console import one_line
from launcher.core.errors import Failure, ServerAway, TransportError
from launcher.core.responses import error_message, is_page
from launcher.core.traffic import Traffic
from launcher.core.types import (
    GATEWAY,
    Handler,
    Health,
    Json,
    Liveness,
    Pause,
    Request,
    Response,
    ServerState,
)
from launcher.evaluate.progress import PauseDisplay

SERVER_FAILURES = frozenset({Failure.connection, Failure.timeout})
"""Failures of a request that may be the server's."""
MIN_SILENT_PROBES, MAX_SILENT_PROBES = 2, 8
"""This many unanswered health probes in a row are an outage, while no request is answered either. The number grows
when the server turns out to have been only busy."""
POLL_INTERVAL_S = 0.05
"""How often to read the state that the health probes found."""
MIN_PROBE_DELAY_S, MAX_PROBE_DELAY_S = 0.2, 3.0
"""The delay between two probes of a server that is away doubles from the first to the second value."""
PLAIN_REQUEST_TIMEOUT_S = 30.0
"""The timeout of a plain request; it doubles for the next one of the same pause."""
LOSSES_PER_OUTAGE = 2
"""After this many broken connections a sample counts as having met an outage, even if health is good."""
LOST_REQUEST_TIMEOUT_S = 30.0
"""A request that was in flight when the server fell silent is sent again, once, this long after the server is back."""
MAX_OUTAGES_IN_A_ROW = 10
"""After this many outages without the end of a sample between them, the evaluation stops."""


class ServerGone(Exception):
    """The server is gone for good; the message says why."""


class NoHealthProbes:
    """The health of a server without probes: only the outcome of requests tells its state."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    def note(self, event: str) -> None:
        return

    def state(self) -> ServerState:
        return ServerState()

    def request_probe(self) -> int:
        return 0


@dataclass(frozen=True)
class _PlainOutcome:
    """The outcome of a plain request: why it has no answer, or None. ``late``: the answer may still come."""

    why: str | None = None
    late: bool = False


_PLAIN_ANSWERED = _PlainOutcome()


@dataclass(eq=False)
class _InFlight:
    """A request in flight: its start, and the deadline that recalls it."""

    sample: str | None
    start: float
    deadline: asyncio.Timeout


class CircuitBreaker:
    """The innermost handler of an evaluation: around the client, behind all adapters.

    It is closed while requests are sent. It opens when the server is away, which two signs tell:

    - health probes say so, and no request was answered since they began;
    - a request failed in the way of a server that goes away, and the next probe confirms it.

    `ServerAway` then ends that request. New requests wait here, and requests in flight may still be answered. It closes
    when health is good again and a plain request for one token is answered. `guard` runs beside the workers.
    ``progress`` is told while it is open. ``patient`` sends the plain request with a deadline of its own, because an
    ``evaluate.timeout_s`` that is too short for any answer is no outage.

    A server that answers a request while its health probes go unanswered may only be busy. Nothing is then sent again,
    and its next silence may last twice as long.
    """

    def __init__(
        self, client: Handler, patient: Handler, model: str, health: Health, max_pause_s: float, progress: PauseDisplay
    ) -> None:
        self._client, self._patient, self._model, self._health = client, patient, model, health
        self._max_pause_s, self._progress = max_pause_s, progress
        self.pauses: list[Pause] = []
        self._silent_probes = MIN_SILENT_PROBES
        self._silent = False
        self._reason = ""
        self._closed = asyncio.Event()
        self._closed.set()
        self._in_flight: set[_InFlight] = set()
        self._recalled: set[str] = set()
        self._opened_at, self._answered_at, self._plain_answered_at = -math.inf, time.monotonic(), -math.inf
        self._away_since = self._answered_at
        self._failed_probes_then = 0
        self._path: str | None = None
        self._asking_plainly = asyncio.Lock()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._slowest_s = 0.0
        self._outages_in_a_row = 0

    async def __call__(self, request: Request) -> Response:
        """Send the request once the breaker is closed. Raises `ServerAway` and `TransportError`."""
        if not self._closed.is_set():
            await self._closed.wait()
        self._path, start = request.path, time.monotonic()
        try:
            response = await self._send(request)
        except TransportError as error:
            self._health.traffic.failed += 1
            if error.failure in SERVER_FAILURES:
                await self._confirm(str(error), start)
            if error.failure is Failure.connection:
                await self._count_loss(request, str(error), start)
            raise
        self._count(response)
        if response.status in GATEWAY:
            await self._confirm(described(response), start)
        else:
            self._note_answer()
            self._slowest_s = max(self._slowest_s, self._answered_at - start)
        return response

    def _note_answer(self) -> None:
        self._answered_at, self._failed_probes_then = time.monotonic(), self._health.state().row

    def _count(self, response: Response) -> None:
        traffic = self._health.traffic
        if response.status >= 500:
            traffic.failed += 1
        else:
            traffic.answered += 1

    async def closed(self) -> None:
        """Wait until requests are sent."""
        if not self._closed.is_set():
            await self._closed.wait()

    async def outage(self, path: str, start: float) -> bool:
        """Tell whether there was an outage since ``start``, on the clock of `time.monotonic`.

        A plain request that is not answered begins one. If it is only late, it begins one where no other request was
        answered either, for longer than the slowest answer took. One plain request serves every caller with an earlier
        ``start``.
        """
        async with self._asking_plainly:
            if self._opened_at < start and self._plain_answered_at < start:
                asked = time.monotonic()
                found = await self._send_plain(path, PLAIN_REQUEST_TIMEOUT_S)
                self._plain_answered_at = asked if found.why is None else self._plain_answered_at
                silent_since = min(asked, time.monotonic() - self._slowest_s)
                if found.why is not None and not (found.late and self._answered_at > silent_since):
                    self._open(found.why, asked, silent=found.late)
            return self._opened_at >= start

    def progressed(self) -> None:
        """Record that a sample has ended."""
        self._outages_in_a_row = 0

    async def guard(self) -> None:
        """Open the breaker when health says that the server is away; close it when it is back. Raises `ServerGone`."""
        while True:
            state = self._health.state()
            if self._closed.is_set() and self._is_away(state, self._silent_probes):
                self._open(state.explanation, state.since, silent=state.liveness is Liveness.silent)
            if not self._closed.is_set():
                await self._pause()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _send(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(None) as deadline:
                flight, traffic = _InFlight(request.sample, time.monotonic(), deadline), self._health.traffic
                self._in_flight.add(flight)
                traffic.in_flight, traffic.path = len(self._in_flight), self._path
                try:
                    return await self._client(request)
                finally:
                    self._in_flight.discard(flight)
                    traffic.in_flight = len(self._in_flight)
        except TimeoutError:
            raise ServerAway("no answer since the server is back", outage=False) from None

    async def _count_loss(self, request: Request, what: str, start: float) -> None:
        """Raise `ServerAway` at every `LOSSES_PER_OUTAGE`-th lost connection of a request, though the server answers.

        A request that ends the server would otherwise end it again with each retry, as it restarts.
        """
        if request.sample is None:
            return
        self._losses[request.sample, request.index] += 1
        if self._losses[request.sample, request.index] % LOSSES_PER_OUTAGE == 0:
            await self.outage(request.path, start)
            raise ServerAway(what)

    async def _confirm(self, what: str, start: float) -> None:
        """Raise `ServerAway` if there was an outage since ``start``, or if a probe of the server's health finds one."""
        if self._opened_at < start:
            state = await self._probed()
            if self._opened_at < start and self._is_away(state, 1):
                self._open(state.explanation, state.since)
        if self._opened_at >= start:
            raise ServerAway(f"{what}; {self._reason}")

    async def _probed(self) -> ServerState:
        """Return the state that a probe finds which begins now."""
        wanted = self._health.request_probe()
        while (state := self._health.state()).probe < wanted:
            await asyncio.sleep(POLL_INTERVAL_S)
        return state

    def _is_away(self, state: ServerState, silent: int) -> bool:
        """Tell whether an outage has begun: enough probes failed since a request was last answered.

        The first probe that fails after an answer may have begun before it, and does not count.
        """
        if state.liveness in (Liveness.restarting, Liveness.dead):
            return True
        if state.liveness is Liveness.live:
            return False
        failed = state.row
        if self._answered_at > state.since:
            failed -= self._failed_probes_then + 1
        return failed >= (1 if state.liveness is Liveness.away else silent)

    def _open(self, why: str, since: float, *, silent: bool = False) -> None:
        """Open the breaker; the server has answered neither a request nor a probe ``since`` then."""
        self._reason, self._silent, self._opened_at = why, silent, time.monotonic()
        self._away_since = min(self._opened_at, max(since, self._answered_at))
        self._closed.clear()

    async def _pause(self) -> None:
        """Wait until the server is back. Raises `ServerGone`.

        What is recorded began when the server fell silent; `Evaluate.max_pause_s` counts from when that was found.
        """
        start, away_since = time.monotonic(), self._away_since
        began = (datetime.now(UTC) - timedelta(seconds=start - away_since)).isoformat(timespec="milliseconds")
        self._outages_in_a_row += 1
        self._health.note(f"the evaluation pauses: {self._reason}")
        try:
            await self._wait_for_recovery(start)
        finally:
            seconds = round(time.monotonic() - away_since, 3)
            if seconds:
                self.pauses.append(Pause(began, seconds, self._reason))
        self._health.note(f"the evaluation goes on after a pause of {seconds:.1f} s")
        self._progress.resumed(seconds)
        self._resume(start)

    def _was_busy(self, start: float) -> bool:
        """Tell whether a server that was silent has answered a request since ``start``."""
        return self._silent and self._answered_at > start

    def _resume(self, start: float) -> None:
        if self._was_busy(start):
            self._silent_probes = min(MAX_SILENT_PROBES, 2 * self._silent_probes)
        else:
            self._recall(start)
        self._note_answer()
        self._closed.set()

    async def _wait_for_recovery(self, start: float) -> None:
        probing = asyncio.create_task(self._probe_until_back())
        try:
            while not (probing.done() or self._was_busy(start)):
                seconds = time.monotonic() - start
                self._give_up(self._health.state(), seconds)
                self._progress.paused(seconds, self._reason)
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            probing.cancel()
        if probing.done():
            probing.result()

    async def _probe_until_back(self) -> None:
        """Wait until health is good and a plain request is answered; a late one gets more time in the next try."""
        wait_s, plain_s = MIN_PROBE_DELAY_S, PLAIN_REQUEST_TIMEOUT_S
        while True:
            state = await self._probed()
            if state.liveness is Liveness.live:
                found = _PLAIN_ANSWERED if self._path is None else await self._send_plain(self._path, plain_s)
                if found.why is None:
                    return
                self._reason, plain_s = found.why, plain_s * (2 if found.late else 1)
            await asyncio.sleep(wait_s)
            wait_s = min(MAX_PROBE_DELAY_S, 2 * wait_s)

    def _give_up(self, state: ServerState, seconds: float) -> None:
        """Raise `ServerGone` when waiting does not help, or no longer."""
        if state.liveness is not Liveness.live:
            self._reason = state.explanation
        if state.liveness is Liveness.dead:
            raise ServerGone(f"the server stopped answering: {self._reason}")
        if self._outages_in_a_row > MAX_OUTAGES_IN_A_ROW:
            raise ServerGone(
                f"the server went away {MAX_OUTAGES_IN_A_ROW} times without a sample's end: {self._reason}"
            )
        if seconds >= self._max_pause_s:
            limit = f"it was not back within evaluate.max_pause_s={self._max_pause_s:g}"
            raise ServerGone(f"the server stopped answering: {self._reason}; {limit}")

    async def _send_plain(self, path: str, timeout_s: float) -> _PlainOutcome:
        """Ask for one token. A refusal of this request is an answer, too."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._patient(Request(path, plain_body(path, self._model)))
        except TimeoutError:
            return _PlainOutcome(f"the server answers no request (not within {timeout_s:g} s)", late=True)
        except TransportError as error:
            return _PlainOutcome(
                f"the server answers no request ({one_line(str(error))})", late=error.failure is Failure.timeout
            )
        if response.status >= 500 or is_page(response):
            return _PlainOutcome(f"the server refuses every request ({described(response)})")
        return _PLAIN_ANSWERED

    def _recall(self, start: float) -> None:
        """Give requests from before the outage `LOST_REQUEST_TIMEOUT_S` to end, as the server may have lost them.

        Each sample is recalled once. A server that hangs answers before that, or has to compute the answer again.
        """
        deadline = asyncio.get_running_loop().time() + LOST_REQUEST_TIMEOUT_S
        for flight in self._in_flight:
            if flight.start < start and flight.sample is not None and flight.sample not in self._recalled:
                self._recalled.add(flight.sample)
                flight.deadline.reschedule(deadline)


def plain_body(path: str, model: str) -> Mapping[str, Json]:
    """Return a body that asks for one token."""
    if path.endswith("/chat/completions"):
        return {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    return {"model": model, "prompt": "a", "max_tokens": 1}


def described(response: Response) -> str:
    """Return the status of a response, with its message if it has one in OpenAI's shape."""
    message = error_message(response.body)
    return f"HTTP {response.status}: {one_line(message)}" if message else f"HTTP {response.status}"
