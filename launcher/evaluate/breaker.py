"""A circuit breaker: while the server is gone or restarts, no request is sent, and those it lost are asked again."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from launcher.core.console import one_line
from launcher.core.errors import Failure, ServerAway, TransportError
from launcher.core.responses import error_message, is_page
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
from launcher.evaluate.progress import Progress

LOST = frozenset({Failure.connection, Failure.timeout})
"""Failures of a request that may be the server's."""
SILENT_PROBES, MOST_PROBES = 2, 8
"""So many health probes in a row without an answer, while no request is answered either, are an outage; more after
those of a server that was only busy."""
LOOK_S = 0.05
"""How often to look at what the health probes found."""
FIRST_S, LONGEST_S = 0.2, 3.0
"""The pauses between two probes of a server that is away grow from the first to the longest."""
PLAIN_S = 30.0
"""How long a plain request may take; the next one of the same pause is given twice the time."""
LOSSES = 2
"""After each so many broken connections a sample counts as having met an outage, whatever health says."""
FORGOTTEN_S = 30.0
"""A request that was under way when the server fell silent is asked again, once, so long after the server is back."""
OUTAGES_IN_A_ROW = 10
"""After so many outages between which no sample ended, another one would not help."""


class ServerGone(Exception):
    """The server did not come back, or never will; the message says why."""


class Unwatched:
    """The health of a server that nothing probes: only what happens to requests tells how it is."""

    def state(self) -> ServerState:
        return ServerState()

    def look(self) -> int:
        return 0


@dataclass(frozen=True)
class _Plain:
    """What became of a plain request: why there is no answer, or None; ``late`` if there may yet be one."""

    why: str | None = None
    late: bool = False


_ANSWERED = _Plain()


@dataclass(eq=False)
class _Flight:
    """A request under way: since when, and the deadline by which it may be called back."""

    sample: str | None
    start: float
    deadline: asyncio.Timeout


class CircuitBreaker:
    """The innermost handler of an evaluation: around the client, behind all adapters.

    It is closed while requests are sent. It opens when the server is away: a probe of its health says so, and no
    request was answered since, or a request failed as it does when a server goes away and the next probe confirms it.
    Then `ServerAway` ends that request, others wait here before they are sent, and those under way may still be
    answered. It closes when health is back and a plain request for one token is answered. `guard` is to run beside the
    workers. ``progress`` is told while it is open. ``patient`` sends the plain request with a deadline of its own:
    an ``evaluate.timeout_s`` that is too short for any answer is no outage.

    A server that answers a request while its health is silent may only have been busy: nothing that it was asked is
    sent again, and its next silence is given twice the time.
    """

    def __init__(
        self, client: Handler, patient: Handler, model: str, health: Health, max_pause_s: float, progress: Progress
    ) -> None:
        self._client, self._patient, self._model, self._health = client, patient, model, health
        self._max_pause_s, self._progress = max_pause_s, progress
        self.pauses: list[Pause] = []
        self._silent_probes = SILENT_PROBES
        self._silent = False
        self._reason = ""
        self._closed = asyncio.Event()
        self._closed.set()
        self._flights: set[_Flight] = set()
        self._called_back: set[str] = set()
        self._opened, self._answered, self._plainly = -math.inf, time.monotonic(), -math.inf
        self._path: str | None = None
        self._asking = asyncio.Lock()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._slowest_s = 0.0
        self._row = 0

    async def __call__(self, request: Request) -> Response:
        """Send the request once the breaker is closed. Raises `ServerAway` and `TransportError`."""
        await self._closed.wait()
        self._path, start = request.path, time.monotonic()
        try:
            response = await self._sent(request)
        except TransportError as error:
            if error.failure in LOST:
                await self._confirm(str(error), start)
            if error.failure is Failure.connection:
                await self._lost(request, str(error), start)
            raise
        if response.status in GATEWAY:
            await self._confirm(said(response), start)
        else:
            self._answered = time.monotonic()
            self._slowest_s = max(self._slowest_s, self._answered - start)
        return response

    async def closed(self) -> None:
        """Wait until requests are sent."""
        await self._closed.wait()

    async def outage(self, path: str, start: float) -> bool:
        """Tell whether there was an outage since ``start``, on the clock of `time.monotonic`.

        One begins if a plain request is not answered either. If it is only late, nothing else may have been answered
        either, for longer than the slowest answer took. A plain request that began after ``start`` answers for all who
        ask.
        """
        async with self._asking:
            if self._opened < start and self._plainly < start:
                asked = time.monotonic()
                found = await self._plain(path, PLAIN_S)
                self._plainly = asked if found.why is None else self._plainly
                silent_since = min(asked, time.monotonic() - self._slowest_s)
                if found.why is not None and not (found.late and self._answered > silent_since):
                    self._open(found.why, silent=found.late)
            return self._opened >= start

    def progressed(self) -> None:
        """Say that a sample has ended."""
        self._row = 0

    async def guard(self) -> None:
        """Open the breaker when health says that the server is away; close it when it is back. Raises `ServerGone`."""
        while True:
            state = self._health.state()
            if self._closed.is_set() and self._away(state, self._silent_probes):
                self._open(state.explanation, silent=state.liveness is Liveness.silent)
            if not self._closed.is_set():
                await self._pause()
            await asyncio.sleep(LOOK_S)

    async def _sent(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(None) as deadline:
                with self._flying(_Flight(request.sample, time.monotonic(), deadline)):
                    return await self._client(request)
        except TimeoutError:
            raise ServerAway("no answer since the server is back", outage=False) from None

    async def _lost(self, request: Request, what: str, start: float) -> None:
        """Raise `ServerAway` for each `LOSSES`-th broken connection of a request, although the server is there.

        It may be back already; then an adapter that asks again would make it go away again and again.
        """
        if request.sample is None:
            return
        self._losses[request.sample, request.index] += 1
        if self._losses[request.sample, request.index] % LOSSES == 0:
            await self.outage(request.path, start)
            raise ServerAway(what)

    @contextmanager
    def _flying(self, flight: _Flight) -> Iterator[None]:
        self._flights.add(flight)
        try:
            yield
        finally:
            self._flights.discard(flight)

    async def _confirm(self, what: str, start: float) -> None:
        """Raise `ServerAway` if there was an outage since ``start``, or if a probe of the server's health finds one."""
        if self._opened < start:
            state = await self._looked()
            if self._opened < start and self._away(state, 1):
                self._open(state.explanation)
        if self._opened >= start:
            raise ServerAway(f"{what}; {self._reason}")

    async def _looked(self) -> ServerState:
        """Return what a probe finds that begins now."""
        wanted = self._health.look()
        while (state := self._health.state()).probe < wanted:
            await asyncio.sleep(LOOK_S)
        return state

    def _away(self, state: ServerState, silent: int) -> bool:
        """Tell whether an outage has begun; a request that was answered since speaks against it."""
        if state.liveness in (Liveness.restarting, Liveness.dead):
            return True
        if state.liveness is Liveness.live or self._answered > state.since:
            return False
        return state.liveness is Liveness.away or state.row >= silent

    def _open(self, why: str, *, silent: bool = False) -> None:
        self._reason, self._silent, self._opened = why, silent, time.monotonic()
        self._closed.clear()

    async def _pause(self) -> None:
        """Wait until the server is back. Raises `ServerGone`."""
        start, began = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
        self._row += 1
        try:
            await self._recovered(start)
        finally:
            seconds = round(time.monotonic() - start, 3)
            if seconds:
                self.pauses.append(Pause(began, seconds, self._reason))
        self._progress.resumed(seconds)
        self._resume(start)

    def _busy(self, start: float) -> bool:
        """Tell whether a server that was silent has answered a request since ``start``."""
        return self._silent and self._answered > start

    def _resume(self, start: float) -> None:
        if self._busy(start):
            self._silent_probes = min(MOST_PROBES, 2 * self._silent_probes)
        else:
            self._call_back(start)
        self._answered = time.monotonic()
        self._closed.set()

    async def _recovered(self, start: float) -> None:
        probing = asyncio.create_task(self._until_back())
        try:
            while not (probing.done() or self._busy(start)):
                seconds = time.monotonic() - start
                self._give_up(self._health.state(), seconds)
                self._progress.paused(seconds, self._reason)
                await asyncio.sleep(LOOK_S)
        finally:
            probing.cancel()
        if probing.done():
            probing.result()

    async def _until_back(self) -> None:
        """Wait until health is back and a plain request is answered; one that is late is given more time next time."""
        wait_s, plain_s = FIRST_S, PLAIN_S
        while True:
            state = await self._looked()
            if state.liveness is Liveness.live:
                found = _ANSWERED if self._path is None else await self._plain(self._path, plain_s)
                if found.why is None:
                    return
                self._reason, plain_s = found.why, plain_s * (2 if found.late else 1)
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_S, 2 * wait_s)

    def _give_up(self, state: ServerState, seconds: float) -> None:
        """Raise `ServerGone` when waiting does not help, or no longer."""
        if state.liveness is not Liveness.live:
            self._reason = state.explanation
        if state.liveness is Liveness.dead:
            raise ServerGone(f"the server stopped answering: {self._reason}")
        if self._row > OUTAGES_IN_A_ROW:
            raise ServerGone(f"the server went away {OUTAGES_IN_A_ROW} times without a sample's end: {self._reason}")
        if seconds >= self._max_pause_s:
            limit = f"it was not back within evaluate.max_pause_s={self._max_pause_s:g}"
            raise ServerGone(f"the server stopped answering: {self._reason}; {limit}")

    async def _plain(self, path: str, timeout_s: float) -> _Plain:
        """Ask for one token. A refusal of this request is an answer, too."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._patient(Request(path, plain(path, self._model)))
        except TimeoutError:
            return _Plain(f"the server answers no request (not within {timeout_s:g} s)", late=True)
        except TransportError as error:
            return _Plain(
                f"the server answers no request ({one_line(str(error))})", late=error.failure is Failure.timeout
            )
        if response.status >= 500 or is_page(response):
            return _Plain(f"the server refuses every request ({said(response)})")
        return _ANSWERED

    def _call_back(self, start: float) -> None:
        """Let requests from before the outage end in `FORGOTTEN_S`, as the server may have lost them; each only once.

        A server that hangs does not lose them: then they are answered before that, or have to be computed once more.
        """
        deadline = asyncio.get_running_loop().time() + FORGOTTEN_S
        for flight in self._flights:
            if flight.start < start and flight.sample is not None and flight.sample not in self._called_back:
                self._called_back.add(flight.sample)
                flight.deadline.reschedule(deadline)


def plain(path: str, model: str) -> Mapping[str, Json]:
    """Return a body that asks for one token."""
    if path.endswith("/chat/completions"):
        return {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    return {"model": model, "prompt": "a", "max_tokens": 1}


def said(response: Response) -> str:
    """Return the status of a response, with its message if it has one in OpenAI's shape."""
    message = error_message(response.body)
    return f"HTTP {response.status}: {one_line(message)}" if message else f"HTTP {response.status}"
