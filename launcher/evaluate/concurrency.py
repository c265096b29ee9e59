"""How many requests are in flight: a fixed number, or one that follows what the server can take."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from launcher.core.errors import Failure, TransportError
from launcher.core.responses import token_count
from launcher.core.types import GATEWAY, Handler, Json, Request, Response

START, MOST = 16, 512
"""The requests in flight with which ``auto`` begins, and the most that it tries."""
MIN_ANSWERS = 64
"""A window has at least so many answers, and at least twice the requests in flight."""
GAIN, LOSS = 1.08, 0.95
"""More in flight is kept if it gives so much throughput, fewer if they keep this share of it."""
LOWEST = 0.88
"""Fewer are kept with this share of the throughput where it varies as much by itself."""
DRIFT, DRIFTS = 0.25, 2
"""A change of the throughput at the same limit by this share, in so many windows in a row, makes it begin again."""
FIRST_WINDOW_S, WINDOW_S = 0.5, 2.0
"""A window is at least so long: while it looks for the first time, and later. Shorter ones measure the machine."""
SURE = 3.0
"""A difference counts if it is so many times what the throughput varies from window to window."""
LEARNING = 0.3
"""The weight of a new window in what is known of the throughput at a limit."""
REST, MAX_REST = 4, 32
"""Windows between two probes; they double while nothing changes."""
BACK_OFF = 0.8
"""What remains of the limit when the server refuses requests because of their number."""
PROMPT_WEIGHT = 0.1
"""The work of a token of a prompt, where one of an answer is 1."""
TOO_MANY = frozenset({429, *GATEWAY})
MAX_HISTORY = 1000


class Gate:
    """Lets at most ``limit`` in at a time, in the order in which they came; the limit may change."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_over(self) -> bool:
        """Whether more are inside than the limit, which has shrunk."""
        return self._inside > self._limit

    def resize(self, limit: int) -> None:
        """Change the limit; those above it stay until they leave."""
        self._limit = limit
        self._let_in()

    def enter_at_once(self) -> bool:
        """Enter if there is a place and no one waits; return whether that was so. What has entered must `leave`."""
        if self._inside < self._limit and not self._waiting:
            self._inside += 1
            return True
        return False

    async def enter(self) -> None:
        """Enter in turn."""
        if self.enter_at_once():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Make place for the next one."""
        self._inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._inside < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


class Knee:
    """Looks for the fewest requests in flight with nearly the highest throughput, from windows of answers.

    At first it tries more in flight as long as the throughput grows, then fewer as long as it stays. Later it looks
    again from time to time. It compares a window with another limit with those before and after it, and with how much
    the throughput varies at the same limit. Where the throughput itself has changed, it begins again. ``limit`` is what
    to keep in flight now.
    """

    def __init__(self, start: int = START, most: int = MOST) -> None:
        self.limit = self._base = start
        self._most = self._ceiling = most
        self._base_rate = self._peak = self._variation = 0.0
        self._direction = 1
        self._coarse = True
        self._left, self._rest, self._drifts = 0, REST, 0
        self._tried: tuple[int, float] | None = None

    @property
    def window_s(self) -> float:
        """The least length of a window in seconds."""
        return FIRST_WINDOW_S if self._coarse else WINDOW_S

    def measured(self, rate: float) -> None:
        """Take the throughput of a window at ``limit`` and choose the next limit."""
        if self.limit != self._base and not self._coarse:
            self._tried, self.limit = (self.limit, rate), self._base
        elif self._tried is not None:
            self._compared(*self._tried, rate)
        elif self.limit > self._base:
            self._went_up(rate)
        elif self.limit < self._base:
            self._went_down(rate)
        else:
            self._held(rate)

    def refused(self) -> None:
        """Back off: the server said that it has too many requests."""
        if self.limit <= self._base:
            self._base = max(1, int(self.limit * BACK_OFF))
        self.limit = self._ceiling = self._base
        self._direction, self._tried = -1, None

    def _went_up(self, rate: float) -> None:
        if rate > self._base_rate * GAIN:
            self._base, self._base_rate = self.limit, rate
            self._probe()
        else:
            self.limit, self._direction = self._base, -1

    def _went_down(self, rate: float) -> None:
        if rate >= self._peak * LOSS:
            self._base, self._base_rate = self.limit, rate
            self._probe()
        else:  # perhaps by chance: the next one is compared with those before and after it
            self.limit, self._coarse = self._base, False

    def _compared(self, limit: int, tried: float, after: float) -> None:
        """Take another limit whose throughput differs from that of the windows around it by more than chance."""
        before, self._tried = self._base_rate, None
        self._learn(after)
        gain = max(GAIN, 1 + SURE * self._variation)
        loss = min(LOSS, max(LOWEST, 1 - self._variation))
        wanted = max(before, after) * gain if limit > self._base else (before + after) / 2 * loss
        if tried >= wanted:
            self._base, self._base_rate = limit, tried
            self._probe()
        elif self._direction > 0:
            self._direction = -1
            self._probe()
        else:
            self._settle()

    def _learn(self, rate: float) -> None:
        """Learn the throughput at the base, and by which share it varies."""
        if self._base_rate:
            self._variation += LEARNING * (abs(rate / self._base_rate - 1) - self._variation)
        self._base_rate = rate if self._coarse else self._base_rate + LEARNING * (rate - self._base_rate)

    def _held(self, rate: float) -> None:
        change = abs(rate / self._base_rate - 1) if self._base_rate else 0.0
        self._drifts = self._drifts + 1 if self._left and change > max(DRIFT, SURE * self._variation) else 0
        if self._drifts >= DRIFTS:
            self._left, self._rest, self._drifts, self._coarse, self._ceiling = 0, REST, 0, True, self._most
        self._learn(rate)
        self._peak = self._base_rate
        if self._left:
            self._left -= 1
        else:
            self._probe()

    def _probe(self) -> None:
        up, down = (2.0, 0.5) if self._coarse else (1.5, 0.75)
        wanted = round(self._base * (up if self._direction > 0 else down))
        wanted = max(wanted, self._base + 1) if self._direction > 0 else min(wanted, self._base - 1)
        self.limit = max(1, min(wanted, self._ceiling))
        if self.limit == self._base:
            if self._direction > 0:
                self._direction = -1
            else:
                self._settle()

    def _settle(self) -> None:
        """Stay at the base for some windows, and then try more again."""
        self.limit, self._direction, self._coarse = self._base, 1, False
        self._left, self._rest = self._rest, min(MAX_REST, 2 * self._rest)
        self._ceiling = min(self._most, max(self._ceiling + 1, round(self._ceiling * 1.25)))


class AdaptiveConcurrency:
    """Measures the answers of a server, and resizes ``gates`` to the limit that `Knee` finds.

    The throughput of a window is the mean number in flight, times the work of its answers, over their latencies. So
    answers of different lengths disturb it little. Answers from before a change do not count, nor do those of the first
    requests after it.
    """

    def __init__(self, *gates: Gate) -> None:
        self._gates = gates
        self.knee = Knee()
        self._in_flight = 0
        self._clock = asyncio.get_running_loop().time
        self._born = self._at = self._clock()
        self.history: list[tuple[float, int]] = [(0.0, self.knee.limit)]
        self._skip, self._changed_at = self.knee.limit, self._born
        self._begin()

    def around(self, handler: Handler) -> Handler:
        """Return a handler whose answers are measured."""

        async def handle(request: Request) -> Response:
            self._moved(1)
            start = self._clock()
            try:
                response = await handler(request)
            except TransportError as error:
                self._failed(start, busy=error.failure is Failure.timeout)
                raise
            finally:
                self._moved(-1)
            if response.status in TOO_MANY:
                self._failed(start, busy=True)
            else:
                self._answered(response, start)
            return response

        return handle

    def facts(self) -> dict[str, Json]:
        """Return the limit over time in seconds since the start, for ``results.json``."""
        return {"concurrency": {"limit": self.knee.limit, "history": [list(entry) for entry in self.history]}}

    def _begin(self) -> None:
        """Begin a window."""
        self._since = self._at = self._clock()
        self._answers, self._work, self._latency, self._area = 0, 0.0, 0.0, 0.0

    def _moved(self, step: int) -> None:
        now = self._clock()
        self._area += self._in_flight * (now - self._at)
        self._at = now
        self._in_flight += step

    def _answered(self, response: Response, start: float) -> None:
        if self._skip:
            self._skip -= 1
            if not self._skip:
                self._begin()
            return
        if start < self._since:
            return
        self._answers += 1
        self._work += _work(response)
        self._latency += self._clock() - start
        is_long = self._clock() - self._since >= self.knee.window_s
        if is_long and self._answers >= max(MIN_ANSWERS, 2 * self.knee.limit):
            self._end()

    def _end(self) -> None:
        mean = self._area / max(1e-9, self._clock() - self._since)
        rate = mean * self._work / max(1e-9, self._latency)
        if mean < BACK_OFF * self.knee.limit:  # something else bounds it: nothing is learnt
            self._begin()
            return
        self.knee.measured(rate)
        self._follow()

    def _failed(self, start: float, *, busy: bool) -> None:
        """Back off, once for all requests from before, and begin the window again."""
        if busy and start >= self._changed_at and not any(gate.is_over for gate in self._gates):
            self.knee.refused()
        self._follow()

    def _follow(self) -> None:
        if self.history[-1][1] != self.knee.limit:
            self._skip, self._changed_at = self.knee.limit, self._clock()
            if len(self.history) < MAX_HISTORY:
                self.history.append((round(self._clock() - self._born, 3), self.knee.limit))
            for gate in self._gates:
                gate.resize(self.knee.limit)
        self._begin()


def _work(response: Response) -> float:
    usage = response.body.get("usage") if isinstance(response.body, dict) else None
    prompt, completion = (token_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return ((prompt or 0) * PROMPT_WEIGHT + (completion or 0)) or 1.0


class Concurrency:
    """How many samples, and how many requests, are in flight: a ``setting``, or with ``auto`` what the server can take.

    ``start`` is with how many it begins, ``most`` how many there may be.
    """

    def __init__(self, setting: int | str) -> None:
        fixed = setting if isinstance(setting, int) else None
        self.start, self.most = (fixed, fixed) if fixed else (START, MOST)
        self.samples, self._requests = Gate(self.start), Gate(self.start)
        self._adaptive = None if fixed else AdaptiveConcurrency(self.samples, self._requests)

    def measured(self, handler: Handler) -> Handler:
        """Return a handler from whose answers the number is learnt."""
        return self._adaptive.around(handler) if self._adaptive else handler

    def bounded(self, handler: Handler) -> Handler:
        """Return a handler with so many requests in flight at most: one sample may send several at a time."""

        async def handle(request: Request) -> Response:
            if not self._requests.enter_at_once():
                await self._requests.enter()
            try:
                return await handler(request)
            finally:
                self._requests.leave()

        return handle

    def facts(self) -> dict[str, Json]:
        """Return what was learnt, for ``results.json``."""
        return self._adaptive.facts() if self._adaptive else {}
