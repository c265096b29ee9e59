"""A circuit breaker: while the server is gone or restarts, no request is sent, and those it lost are asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from launcher.core import GATEWAY, Handler, Health, Json, Liveness, Pause, Request, Response, ServerState, error_of
from launcher.errors import Failure, ServerAway, TransportError
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
"""How long a plain request may take; a server that takes longer is there, and busy."""
FORGOTTEN_S = 30.0
"""A request that was under way when the server fell silent is asked again, once, so long after the server is back."""
OUTAGES_IN_A_ROW = 10
"""After so many outages between which no sample ended, another one would not help."""
QUOTED = 200
"""Characters of what a server says of itself that a reason quotes."""


class ServerGone(Exception):
    """The server did not come back, or never will; the message says why."""


class Unwatched:
    """The health of a server that nothing probes: only what happens to requests tells how it is."""

    def state(self) -> ServerState:
        return ServerState()

    def look(self) -> int:
        return 0


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
    workers. ``progress`` is told while it is open.

    A server that answers a request while its health is silent may only have been busy: nothing that it was asked is
    sent again, and its next silence is given twice the time.
    """

    def __init__(self, client: Handler, model: str, health: Health, max_pause_s: float, progress: Progress) -> None:
        self._client, self._model, self._health = client, model, health
        self._max_pause_s, self._progress = max_pause_s, progress
        self.pauses: list[Pause] = []
        self._silent_probes = SILENT_PROBES
        self._silent = False
        self._reason = ""
        self._tripped, self._closed = asyncio.Event(), asyncio.Event()
        self._closed.set()
        self._flights: set[_Flight] = set()
        self._called_back: set[str] = set()
        self._answered = time.monotonic()
        self._path: str | None = None
        self._asking = asyncio.Lock()
        self._row = 0

    async def __call__(self, request: Request) -> Response:
        """Send the request once the breaker is closed. Raises `ServerAway` and `TransportError`."""
        await self._closed.wait()
        self._path = request.path
        try:
            response = await self._sent(request)
        except TransportError as error:
            if error.failure in LOST:
                await self._confirm(str(error))
            raise
        if response.status in GATEWAY:
            await self._confirm(said(response))
        else:
            self._answered = time.monotonic()
        return response

    async def closed(self) -> None:
        """Wait until requests are sent."""
        await self._closed.wait()

    async def outage(self, path: str) -> bool:
        """Tell whether the breaker is open; it opens if a plain request gets no answer either."""
        async with self._asking:
            if self._closed.is_set() and (why := await self._plain(path)) is not None:
                self._open(why)
            return not self._closed.is_set()

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
            try:
                await asyncio.wait_for(self._tripped.wait(), LOOK_S)
            except TimeoutError:
                continue

    async def _sent(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(None) as deadline:
                with self._flying(_Flight(request.sample, time.monotonic(), deadline)):
                    return await self._client(request)
        except TimeoutError:
            raise ServerAway("no answer since the server is back", outage=False) from None

    @contextmanager
    def _flying(self, flight: _Flight) -> Iterator[None]:
        self._flights.add(flight)
        try:
            yield
        finally:
            self._flights.discard(flight)

    async def _confirm(self, what: str) -> None:
        """Raise `ServerAway` if the server is; its health is probed for that unless the breaker is open already."""
        if self._closed.is_set():
            state = await self._looked()
            if self._closed.is_set() and self._away(state, 1):
                self._open(state.explanation)
        if not self._closed.is_set():
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
        self._reason, self._silent = why, silent
        self._closed.clear()
        self._tripped.set()

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
        self._tripped.clear()
        self._closed.set()

    async def _recovered(self, start: float) -> None:
        wait_s, wanted, next_look = FIRST_S, self._health.look(), start
        while not self._busy(start):
            state, now = self._health.state(), time.monotonic()
            self._give_up(state, now - start)
            self._progress.paused(now - start, self._reason)
            if state.probe >= wanted and now >= next_look:
                if state.liveness is Liveness.live and await self._serves():
                    return
                wait_s = min(LONGEST_S, 2 * wait_s)
                wanted, next_look = self._health.look(), time.monotonic() + wait_s
            await asyncio.sleep(LOOK_S)

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

    async def _serves(self) -> bool:
        why = None if self._path is None else await self._plain(self._path)
        self._reason = why or self._reason
        return why is None

    async def _plain(self, path: str) -> str | None:
        """Ask for one token; return why there is no answer, None if there is one, or a refusal, or it takes long."""
        try:
            response = await asyncio.wait_for(self._client(Request(path, plain(path, self._model))), PLAIN_S)
        except TimeoutError:
            return None
        except TransportError as error:
            return None if error.failure is Failure.timeout else f"the server answers no request ({shown(error)})"
        return f"the server refuses every request ({said(response)})" if response.status >= 500 else None

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
    message = error_of(response.body).get("message")
    return f"HTTP {response.status}: {shown(message)}" if message else f"HTTP {response.status}"


def shown(text: Json) -> str:
    """Return the beginning of a text on one line, without what steers a terminal."""
    line = " ".join(str(text).split())
    return "".join(character for character in line if character.isprintable())[:QUOTED]
