"""Runs the load test: levels of requests in flight until the knee, within a budget of time and tokens."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from launcher.core.client import Client
from launcher.core.types import Endpoint
from launcher.load_test.asking import CHAT, Asking
from launcher.load_test.measurement import Level, Measurement, level
from launcher.load_test.prompts import Prompts
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
LEAST_S = 0.1
"""A level and an answer get at least so much time."""
SHORT = 8
"""Words of the first prompt, which fits into every context."""
LONGER = 4.0
"""The prompts that look for a prefix cache are so many times as long as the others."""


@dataclass(frozen=True)
class PrefixCache:
    """The medians of the time to the first token, in seconds, of new prompts and of those sent again."""

    new_s: float
    again_s: float

    @property
    def found(self) -> bool:
        return self.again_s < CACHED * self.new_s


@dataclass(frozen=True)
class LoadTest:
    """What a load test found.

    ``path`` is what was asked, with prompts of about ``prompt_tokens`` tokens (0 where the server counts none) and
    answers of at most ``max_tokens``. ``ended`` says why there are no more levels. ``tokens`` are all that were sent
    and generated, in ``seconds``.
    """

    path: str
    prompt_tokens: int
    max_tokens: int
    levels: tuple[Level, ...]
    prefix_cache: PrefixCache | None
    seconds: float
    tokens: int
    ended: str

    @property
    def knee(self) -> Level | None:
        """The level with the fewest requests in flight that has nearly the most generated tokens per second."""
        most = max((one.generated_tokens_per_s for one in self.levels), default=0.0)
        return next((one for one in self.levels if most and one.generated_tokens_per_s >= NEAR * most), None)


async def load_test(endpoint: Endpoint, settings: Load, tell: Callable[[Level], None] = lambda _: None) -> LoadTest:
    """Measure an endpoint; ``tell`` is called after each level."""
    async with Client(endpoint, timeout_s=settings.timeout_s, concurrency=max(settings.in_flight)) as client:
        return await _Run(Asking(client, endpoint.model, settings.max_tokens), settings, tell).measure()


class _Run:
    """One load test as it goes on."""

    def __init__(self, asking: Asking, settings: Load, tell: Callable[[Level], None]) -> None:
        self._asking, self._settings, self._tell = asking, settings, tell
        self._prompts = Prompts(settings.prompt_tokens)
        self._began, self._tokens, self._prompt_tokens = time.perf_counter(), 0, 0

    async def measure(self) -> LoadTest:
        fault = await self._warm_up()
        levels: list[Level] = []
        ended = fault or ""
        for in_flight in () if fault else self._settings.in_flight:
            if ended := self._spent():
                break
            levels.append(await self._level(in_flight))
            self._tell(levels[-1])
            if ended := self._at_knee(levels):
                break
        cache = None if fault or self._spent() else await self._prefix_cache()
        seconds = time.perf_counter() - self._began
        return LoadTest(
            self._asking.path,
            self._prompt_tokens,
            self._settings.max_tokens,
            tuple(levels),
            cache,
            seconds,
            self._tokens,
            ended or "all levels measured",
        )

    async def _warm_up(self) -> str | None:
        """Learn what the server takes; return why nothing can be measured, None where it can.

        A short prompt goes to chat where completions are refused, and tells the tokens of a word. Then prompts are
        halved until one is not refused: a context may be too short.
        """
        prompt = self._prompts.words(SHORT)
        first = await self._ask(prompt)
        if first.error is not None:
            refused, self._asking = first.error, self._asking.over(CHAT)
            first = await self._ask(prompt)
            if first.error is not None:
                return f"no answer could be measured: {refused}"
        self._prompts.calibrate(prompt, first.prompt_tokens)
        while (whole := await self._ask(self._prompts.make())).error is not None:
            if not whole.error.startswith("HTTP 4") or not self._prompts.halve():
                return f"no answer could be measured: {whole.error}"
        self._prompt_tokens = whole.prompt_tokens
        return None

    async def _level(self, in_flight: int) -> Level:
        start = time.perf_counter()
        left = self._settings.budget_s - (start - self._began)
        end = start + max(LEAST_S, min(self._settings.seconds, left))
        workers = [self._ask_until(end) for _ in range(in_flight)]
        measured = [one for each in await asyncio.gather(*workers) for one in each]
        return level(in_flight, measured, start, end)

    async def _ask_until(self, end: float) -> list[Measurement]:
        measured: list[Measurement] = []
        while time.perf_counter() < end and self._tokens < self._settings.budget_tokens:
            measured.append(await self._ask(self._prompts.make()))
            if measured[-1].error is not None:
                await asyncio.sleep(0.1)
        return measured

    async def _ask(self, prompt: str, max_tokens: int | None = None) -> Measurement:
        """Ask within what is left of the budget of time, and count the tokens."""
        sent = time.perf_counter()
        left_s = self._settings.budget_s - (sent - self._began)
        try:
            async with asyncio.timeout(max(LEAST_S, left_s)):
                one = await self._asking.ask(prompt, max_tokens)
        except TimeoutError:
            return Measurement(sent, error=f"no answer before load.budget_s={self._settings.budget_s:g} was used up")
        self._tokens += one.tokens + one.prompt_tokens
        return one

    def _spent(self) -> str:
        if time.perf_counter() - self._began >= self._settings.budget_s:
            return f"load.budget_s={self._settings.budget_s:g} was used up"
        if self._tokens >= self._settings.budget_tokens:
            return f"load.budget_tokens={self._settings.budget_tokens:,} were used up"
        return ""

    def _at_knee(self, levels: list[Level]) -> str:
        last = levels[-1]
        if last.failed > FAILING * (last.requests + last.failed):
            return f"{last.failed} of {last.requests + last.failed} requests failed at {last.in_flight} in flight"
        before = max((one.generated_tokens_per_s for one in levels[:-1]), default=0.0)
        if before and last.generated_tokens_per_s < GAIN * before:
            return f"{last.in_flight} in flight bring no more tokens"
        return ""

    async def _prefix_cache(self) -> PrefixCache | None:
        """Send long prompts twice, one at a time; None where one of them failed."""
        new: list[float] = []
        again: list[float] = []
        for _ in range(PROBES):
            prompt = self._prompts.make(LONGER)
            for times in (new, again):
                one = await self._ask(prompt, max_tokens=1)
                if one.ttft_s is None:
                    return None
                times.append(one.ttft_s)
        return PrefixCache(statistics.median(new), statistics.median(again))
