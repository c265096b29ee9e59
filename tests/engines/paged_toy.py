"""A model without floats: its output depends on every token before, as read back from its paged cache."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from typing import Any

from launcher.engines.base import GenerationRequest, Sampling, TokenLogprob
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest
from launcher.engines.runtime.step import StepPlan

VOCAB = 50


def logprob(context: Sequence[int], token: int) -> float:
    return -1.0 - zlib.crc32(repr((list(context), token)).encode()) % 1000 / 1000


def following(context: Sequence[int]) -> int:
    return zlib.crc32(repr(list(context)).encode()) % VOCAB


def entry(context: Sequence[int], token: int, top: int) -> TokenLogprob:
    return TokenLogprob(token, logprob(context, token), tuple((t, logprob(context, t)) for t in range(top)))


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


def prompt_entries(prompt: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    return (TokenLogprob(prompt[0]), *(entry(prompt[:i], prompt[i], top) for i in range(1, len(prompt))))


class PagedToy:
    """Implements `Executor`. ``computed`` counts tokens; a step waits for ``gate`` when there is one."""

    vocab_size = VOCAB

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.computed = 0
        self.widest = 0
        self.gate: threading.Semaphore | None = None
        self.broken: Exception | None = None
        self._cache: dict[tuple[int, int], int] = {}

    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        if self.broken is not None:
            raise self.broken
        contexts = [c for chunk in plan.chunks for c in self._contexts(chunk)]
        self.widest = max(self.widest, len(contexts))
        rows = iter(plan.rows)
        found = [entry(contexts[next(rows)], t, s.top) for s in scores for t in s.targets]
        for draw in draws:
            context = contexts[next(rows)]
            found.append(entry(context, following(context), draw.sampler.sampling.logprobs or 0))
        assert next(rows, None) is None
        return found

    def reference(self, tokens: Sequence[int]) -> list[float]:
        return [logprob(tokens[:i], tokens[i]) for i in range(1, len(tokens))]

    def _contexts(self, chunk: Any) -> list[list[int]]:
        size = self.block_size
        for position, token in enumerate(chunk.tokens, chunk.start):
            block = chunk.blocks[position // size]
            assert block != 0
            if position >= chunk.write:
                self._cache[block, position % size] = token
            assert self._cache[block, position % size] == token
        self.computed += len(chunk.tokens)
        end = chunk.start + len(chunk.tokens)
        held = [self._cache[chunk.blocks[p // size], p % size] for p in range(end)]
        return [held[: p + 1] for p in range(chunk.start, end)]


def request(name: str, prompt: Sequence[int], **sampling: Any) -> GenerationRequest:
    return GenerationRequest(name, tuple(prompt), Sampling(**{"temperature": 0.0, **sampling}))
