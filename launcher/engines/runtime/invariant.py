"""Batch-invariant steps: no answer depends on the rest of the batch, bit for bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.engines.base import TokenLogprob
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, choose
from launcher.engines.runtime.step import Chunk, StepPlan

if TYPE_CHECKING:
    from torch import Tensor

EXPERTS = "a mixture of experts multiplies as many tokens together as its router sends to an expert"
"""Why models with experts cannot be batch-invariant."""
Execute = Callable[[StepPlan, Sequence[ScoreRequest], Sequence[SampleRequest]], list[TokenLogprob]]
"""The signature of `Executor.execute`."""

MIN_ALTERNATIVES = 20
"""The minimum number of alternatives to look up (the API's limit).

The order of two equal alternatives may depend on how many are requested, and the prefix cache keeps them for later
requests that ask for fewer.
"""


@dataclass(frozen=True)
class Invariant:
    """Computes one block of one sequence at a time, always of the same shape.

    A matrix product rounds by its shape: a token computed among others may differ in its last bits from the same token
    alone. Here a token at position p is always row p modulo ``block_size`` of a product of ``block_size`` rows. Rows
    after the last token are padding, which no earlier token sees. The chunks of a plan must start at a multiple of
    ``block_size`` (see `SchedulerConfig.aligned`). ``logits`` computes a plan. The last block ends at
    ``context_length``.
    """

    logits: Callable[[StepPlan], Tensor]
    block_size: int
    context_length: int
    vocab_size: int

    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        """Implement `Executor.execute`."""
        asked = _by_row(plan.rows, scores, draws)
        found: dict[int, TokenLogprob] = {}
        for first, chunk in self._blocks(plan):
            rows = [row for row in range(first, first + len(chunk.tokens)) if row in asked]
            padded = self._padded(chunk)
            logits = self.logits(StepPlan([padded], range(len(padded.tokens)) if rows else []))
            for row in rows:
                for at, wanted in asked[row]:
                    found[at] = self._choose(logits[row - first : row - first + 1], wanted)
        return [found[at] for at in range(len(plan.rows))]

    def _blocks(self, plan: StepPlan) -> Iterator[tuple[int, Chunk]]:
        """Yield each block's part of each chunk, with the index of its first token in the plan."""
        first = 0
        for chunk in plan.chunks:
            for at in range(0, len(chunk.tokens), self.block_size):
                tokens = chunk.tokens[at : at + self.block_size]
                yield first + at, chunk._replace(tokens=tokens, start=chunk.start + at)
            first += len(chunk.tokens)

    def _padded(self, chunk: Chunk) -> Chunk:
        width = min(self.block_size, self.context_length - chunk.start)
        return chunk._replace(tokens=[*chunk.tokens, *[0] * (width - len(chunk.tokens))])

    def _choose(self, row: Tensor, wanted: ScoreRequest | SampleRequest) -> TokenLogprob:
        if isinstance(wanted, SampleRequest):
            return choose(row, [], [wanted], self.vocab_size)[0]
        (found,) = choose(row, [ScoreRequest(wanted.targets, max(wanted.top, MIN_ALTERNATIVES))], [], self.vocab_size)
        return TokenLogprob(found.token, found.logprob, found.top[: wanted.top])


def execution(logits: Callable[[StepPlan], Tensor], block_size: int, vocab_size: int, invariant: int | None) -> Execute:
    """Return `Executor.execute` over ``logits``; batch-invariant if ``invariant`` is a context length."""
    if invariant is not None:
        return Invariant(logits, block_size, invariant, vocab_size).execute

    def execute(plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]) -> list[TokenLogprob]:
        return choose(logits(plan), scores, draws, vocab_size)

    return execute


def _by_row(
    rows: Sequence[int], scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
) -> dict[int, list[tuple[int, ScoreRequest | SampleRequest]]]:
    """Return the requests of each row, with their places in the result."""
    wanted: list[ScoreRequest | SampleRequest] = [
        ScoreRequest([target], score.top) for score in scores for target in score.targets
    ]
    wanted += draws
    found: dict[int, list[tuple[int, ScoreRequest | SampleRequest]]] = defaultdict(list)
    for at, (row, what) in enumerate(zip(rows, wanted, strict=True)):
        found[row].append((at, what))
    return found
