"""Asks a runner, and keeps its answers, for the tests of all engines with a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.engines.base import AsyncEngine, GenerationRequest, Sampling, TokenLogprob


@dataclass(frozen=True)
class Answer:
    """All events of a generation together."""

    tokens: tuple[TokenLogprob, ...]
    prompt: tuple[TokenLogprob, ...] | None
    finish: str | None

    @property
    def ids(self) -> list[int]:
        return [t.token for t in self.tokens]

    @property
    def logprobs(self) -> list[float | None]:
        """The log-probabilities of the prompt, if asked for, and of the generated tokens."""
        return [t.logprob for t in (*(self.prompt or ()), *self.tokens)]


async def answer(runner: AsyncEngine, request: GenerationRequest) -> Answer:
    tokens: list[TokenLogprob] = []
    prompt, finish = None, None
    async for event in runner.generate(request):
        tokens += event.tokens
        prompt = event.prompt or prompt
        finish = event.finish
    return Answer(tuple(tokens), prompt, finish)


async def together(runner: AsyncEngine, requests: Sequence[GenerationRequest]) -> list[Answer]:
    return list(await asyncio.gather(*(answer(runner, r) for r in requests)))


async def one_by_one(runner: AsyncEngine, requests: Sequence[GenerationRequest]) -> list[Answer]:
    return [await answer(runner, r) for r in requests]


def request(name: str, prompt: str | Sequence[int], **sampling: Any) -> GenerationRequest:
    tokens = tuple(prompt.encode()) if isinstance(prompt, str) else tuple(prompt)
    defaults = Sampling(temperature=0.0, ignore_eos=True)
    return GenerationRequest(name, tokens, replace(defaults, **sampling))
