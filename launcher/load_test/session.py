"""Asks one endpoint within the budget of a load test, and counts what that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from launcher.load_test.asking import CHAT, COMPLETIONS, Asking
from launcher.load_test.measurement import Measurement, Window
from launcher.load_test.prompts import Prompts
from launcher.settings.load import Load

LEAST_S = 0.1
"""A window and an answer get at least so much time."""
ENOUGH = 2
"""So many answers in each place make a rate: from the end of the first to that of the last."""
SHORT = 8
"""Words of the first prompt, which fits into every context."""
REFUSED = "HTTP 4"
"""How the error of a request begins that the server refuses."""


class Session:
    """What is asked of one endpoint. Its budget of time runs while this endpoint is asked, not while others are.

    ``prompt_tokens`` are those of a prompt as the server counts them, 0 where it does not. ``answered`` says that
    `warm_up` got an answer, which took ``latency_s``.
    """

    def __init__(self, asking: Asking, settings: Load) -> None:
        self.asking, self._settings = asking, settings
        self._prompts = Prompts(settings.prompt_tokens)
        self._used_s: float = 0.0
        self._since: float | None = None
        self.tokens, self.prompt_tokens, self.answered = 0, 0, False
        self.latency_s = 0.0

    @property
    def seconds(self) -> float:
        """How long this endpoint was asked."""
        return self._used_s + (self._now() - self._since if self._since is not None else 0.0)

    def spent(self) -> str:
        """Say which budget is used up; empty where none is."""
        if self.seconds >= self._settings.budget_s:
            return f"load.budget_s={self._settings.budget_s:g} was used up"
        if self.tokens >= self._settings.budget_tokens:
            return f"load.budget_tokens={self._settings.budget_tokens:,} were used up"
        return ""

    def _now(self) -> float:
        return self.asking.clock()

    async def warm_up(self) -> str | None:
        """Learn what the server takes; return why nothing can be measured, None where it can.

        A short prompt tells the tokens of a word. Then prompts are halved until one is not refused: a context may be
        too short.
        """
        with self._timed():
            prompt = self._prompts.words(SHORT)
            first = await self._first(prompt)
            if first.error is not None:
                return f"no answer could be measured: {first.error}"
            self._prompts.calibrate(prompt, first.prompt_tokens)
            while (whole := self._late(await self._ask(self._prompts.make()))).error is not None:
                if not whole.error.startswith(REFUSED) or not self._prompts.halve():
                    return f"no answer could be measured: {whole.error}"
            self.prompt_tokens, self.answered = whole.prompt_tokens, True
            self.latency_s = whole.latency_s or 0.0
            return None

    async def _first(self, prompt: str) -> Measurement:
        """Ask for completions, then chat, each first with ``ignore_eos``; return the first answer or refusal."""
        refusal: Measurement | None = None
        forced = [True, False] if self._settings.ignore_eos else [False]
        for path in (COMPLETIONS, CHAT):
            for ignore_eos in forced:
                self.asking = replace(self.asking, path=path, ignore_eos=ignore_eos)
                answer = self._late(await self._ask(prompt))
                if answer.error is None:
                    return answer
                refusal = refusal or answer
                if not answer.error.startswith(REFUSED):
                    break
        assert refusal is not None
        return refusal

    async def window(self, in_flight: int, seconds: float) -> Window:
        """Keep so many requests in flight for some time, and until each place has a few answers, within the budget."""
        with self._timed():
            start = self._now()
            end = start + max(LEAST_S, min(seconds, self._settings.budget_s - self.seconds))
            places: list[list[Measurement]] = [[] for _ in range(in_flight)]
            await asyncio.gather(*(self._keep_asking(place, places, end) for place in places))
            if not any(one.whole for place in places for one in place):
                places = [[self._late(one) for one in place] for place in places]
            return Window(places, start, max(end, _enough_at(places)))

    async def twice(self, times: float) -> tuple[Measurement, Measurement]:
        """Send a prompt that is ``times`` as long as others, and then send it again, for one token each."""
        with self._timed():
            prompt = self._prompts.make(times)
            return await self._ask(prompt, max_tokens=1), await self._ask(prompt, max_tokens=1)

    async def _keep_asking(self, place: list[Measurement], places: list[list[Measurement]], end: float) -> None:
        while (self._now() < end or not _enough(places)) and not self.spent():
            place.append(await self._ask(self._prompts.make()))
            if place[-1].error is not None:
                await asyncio.sleep(0.1)

    async def _ask(self, prompt: str, max_tokens: int | None = None) -> Measurement:
        """Ask within what is left of the budget of time, and count the tokens."""
        left_s = max(LEAST_S, self._settings.budget_s - self.seconds)
        one = await self.asking.ask(prompt, max_tokens, limit_s=left_s)
        self.tokens += one.tokens + one.prompt_tokens
        return one

    def _late(self, one: Measurement) -> Measurement:
        """Return an answer that was cut as one that failed."""
        why = f"no answer before load.budget_s={self._settings.budget_s:g} was used up"
        return replace(one, error=why, cut=False) if one.cut else one

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._since = self._now()
        try:
            yield
        finally:
            self._used_s, self._since = self.seconds, None


def _enough(places: Sequence[Sequence[Measurement]]) -> bool:
    """Tell whether each place has enough answers for a rate, or a request failed."""
    return any(place and place[-1].error is not None for place in places) or min(map(len, places)) >= ENOUGH


def _enough_at(places: Sequence[Sequence[Measurement]]) -> float:
    """Return when each place had enough answers; 0 where one has fewer."""
    return max((place[ENOUGH - 1].ended if len(place) >= ENOUGH else 0.0 for place in places), default=0.0)
