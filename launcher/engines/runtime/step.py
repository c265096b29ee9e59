"""The plan of one step over many sequences, in plain integers, and the executor that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from launcher.engines.base import TokenLogprob
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence that are computed together.

    ``start`` is the position of the first token. Keys and values of positions below ``write`` are already in the cache
    and are not stored again. ``blocks`` are the numbers of the cache blocks from position 0 on.
    """

    tokens: Sequence[int]
    start: int
    write: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass over the concatenated tokens of ``chunks``.

    ``rows`` are the indices, in the concatenation, of the tokens whose logits are needed. A process without a scheduler
    needs nothing else to take part in the step.
    """

    chunks: Sequence[Chunk]
    rows: Sequence[int]


class Executor(Protocol):
    """A loaded model with a paged cache, driven by one thread.

    ``num_blocks`` counts cache blocks of ``block_size`` tokens; block 0 belongs to no sequence and takes the writes
    of tokens that are not to be stored. ``vocab_size`` bounds token ids.
    """

    num_blocks: int
    block_size: int
    vocab_size: int

    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        """Run one step, and return what `sampling.choose` makes of the logits of ``plan.rows``.

        The rows of ``scores`` come first, then one row per draw; so does the result.
        """
        ...

    def reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probability of ``tokens[1:]`` by a plain forward pass without cache."""
        ...

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        """Return the same, computed in the next wider floating point type."""
        ...
