"""Runs the load test: levels of requests in flight until the knee, within a budget of time and tokens."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from launcher.core.client import Client
from launcher.core.types import Endpoint
from launcher.load_test.asking import Asking
from launcher.load_test.measurement import Level, Window, level
from launcher.load_test.session import Session
from launcher.settings.load import Load

GAIN = 1.1
"""More in flight must bring this many times the tokens, or the knee is reached."""
NEAR = 0.9
"""The knee is the least number in flight with this share of the most tokens."""
FAILING = 0.1
"""A level with a larger share of failures ends the test."""
CACHED = 0.7
"""A prompt that was sent before takes at most this share of the time of a new one where its prefix is cached."""
PROBES = 5
LONGER = 4.0
"""The prompts that look for a prefix cache are so many times as long as the others."""
TURNS = 4
"""Endpoints that are measured side by side take so many turns at each level."""
ANSWERS = 4
"""A turn is long enough for so many answers, one after the other, unless a level is shorter."""
ALL = "all levels measured"


@dataclass(frozen=True)
class PrefixCache:
    """The medians of the time to the first token, in seconds, of new prompts and of those sent again.

    ``cached_tokens`` are the most that the server says it had cached of a prompt sent again; None where it says
    nothing. What it says decides.
    """

    new_s: float
    again_s: float
    cached_tokens: int | None = None

    @property
    def found(self) -> bool:
        return self.again_s < CACHED * self.new_s if self.cached_tokens is None else self.cached_tokens > 0


@dataclass(frozen=True)
class LoadTest:
    """What a load test found.

    ``path`` is what was asked, with prompts of about ``prompt_tokens`` tokens (0 where the server counts none). Answers
    have ``max_tokens``, or fewer unless the server was asked to ``ignore_eos``. ``ended`` says why there are no more
    levels. ``tokens`` are all that were sent and generated, in ``seconds``.
    """

    path: str
    prompt_tokens: int
    max_tokens: int
    levels: tuple[Level, ...]
    prefix_cache: PrefixCache | None
    seconds: float
    tokens: int
    ended: str
    ignore_eos: bool = False

    @property
    def knee(self) -> Level | None:
        """The level with the fewest requests in flight that has nearly the most generated tokens per second."""
        most = max((one.generated_tokens_per_s for one in self.levels), default=0.0)
        return next((one for one in self.levels if most and one.generated_tokens_per_s >= NEAR * most), None)


Tell = Callable[[Level], None]
"""Is called after each level."""


async def load_test(endpoint: Endpoint, settings: Load, tell: Tell = lambda _: None) -> LoadTest:
    """Measure an endpoint."""
    return (await side_by_side([endpoint], settings, [tell]))[0]


async def side_by_side(endpoints: Sequence[Endpoint], settings: Load, tell: Sequence[Tell]) -> tuple[LoadTest, ...]:
    """Measure one or several endpoints, which take turns at each level: what else their machine does meets all.

    ``tell`` has one for each endpoint.
    """
    async with AsyncExitStack() as stack:
        measured = []
        for endpoint, told in zip(endpoints, tell, strict=True):
            client = Client(endpoint, timeout_s=settings.timeout_s, concurrency=max(settings.in_flight))
            asking = Asking(await stack.enter_async_context(client), endpoint.model, settings.max_tokens)
            measured.append(Measuring(asking, settings, told))
        return await measure(measured, settings)


async def measure(measured: Sequence[Measuring], settings: Load) -> tuple[LoadTest, ...]:
    """Measure endpoints until each has ended or reached its knee."""
    for one in measured:
        await one.begin()
    for in_flight in settings.in_flight:
        going = [one for one in measured if one.goes_on()]
        if not going or all(one.knee for one in going):
            break
        for turn in range(TURNS if len(measured) > 1 else 1):
            for one in going if turn % 2 == 0 else going[::-1]:
                await one.turn(in_flight, beside=len(measured) > 1)
        for one in going:
            one.close(in_flight)
    return tuple([await one.result() for one in measured])


class Measuring:
    """The load test of one endpoint as it goes on; ``knee`` says where more in flight brought no more tokens."""

    def __init__(self, asking: Asking, settings: Load, tell: Tell = lambda _: None) -> None:
        self._session, self._settings = Session(asking, settings), settings
        self._tell = tell
        self._levels: list[Level] = []
        self._windows: list[Window] = []
        self._ended, self.knee = "", ""

    async def begin(self) -> None:
        """Learn what the server takes."""
        self._ended = await self._session.warm_up() or ""

    def goes_on(self) -> bool:
        """Tell whether another level can be measured."""
        self._ended = self._ended or self._session.spent()
        return not self._ended

    async def turn(self, in_flight: int, *, beside: bool) -> None:
        """Keep so many requests in flight: for the time of a level, or a part of it that holds a few answers."""
        whole_s, session = self._settings.seconds, self._session
        part_s = min(whole_s, max(whole_s / TURNS, ANSWERS * session.latency_s))
        if not session.spent():
            self._windows.append(await session.window(in_flight, part_s if beside else whole_s))

    def close(self, in_flight: int) -> None:
        """Sum up the turns of a level."""
        windows, self._windows = self._windows, []
        if windows:
            self._levels.append(level(in_flight, windows))
            self._tell(self._levels[-1])
            self.knee = self.knee or self._flat()
            self._ended = self._failing() or ("" if self.knee else self._session.spent())

    def _failing(self) -> str:
        last = self._levels[-1]
        if last.failed > FAILING * (last.requests + last.failed):
            return f"{last.failed} of {last.requests + last.failed} requests failed at {last.in_flight} in flight"
        return ""

    def _flat(self) -> str:
        last = self._levels[-1]
        before = max((one.generated_tokens_per_s for one in self._levels[:-1]), default=0.0)
        flat = before and last.generated_tokens_per_s < GAIN * before
        return f"{last.in_flight} in flight bring no more tokens" if flat else ""

    async def result(self) -> LoadTest:
        """Look for a prefix cache, and return what was found."""
        session, broken = self._session, not self._session.answered
        cache = None if broken or session.spent() else await self._prefix_cache(LONGER) or await self._prefix_cache(1.0)
        return LoadTest(
            session.asking.path,
            session.prompt_tokens,
            session.asking.max_tokens,
            tuple(self._levels),
            cache,
            session.seconds,
            session.tokens,
            self._ended or self.knee or ALL,
            session.asking.ignore_eos,
        )

    async def _prefix_cache(self, times: float) -> PrefixCache | None:
        """Send prompts twice, one at a time, ``times`` as long as others; None where one of them failed."""
        new: list[float] = []
        again: list[float] = []
        said: list[int] = []
        for _ in range(PROBES):
            first, second = await self._session.twice(times)
            if first.ttft_s is None or second.ttft_s is None:
                return None
            new.append(first.ttft_s)
            again.append(second.ttft_s)
            said += [] if second.cached_tokens is None else [second.cached_tokens]
        return PrefixCache(statistics.median(new), statistics.median(again), max(said, default=None))
