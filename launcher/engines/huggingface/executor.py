"""A transformers model as the scheduler's executor, by the fastest way of computing that is exact for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from launcher.engines.base import TokenLogprob
from launcher.engines.huggingface.flat import Flat
from launcher.engines.huggingface.loading import first_line
from launcher.engines.huggingface.probe import NoKeysAndValues, NotPaged, attending, cached
from launcher.engines.huggingface.sequential import Sequential
from launcher.engines.runtime.invariant import Invariant
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, choose, of_next
from launcher.engines.runtime.step import Chunk, StepPlan
from launcher.engines.runtime.upcast import upcast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""How far log-probabilities may be from those of a plain forward pass, as a share of their own spread.

Rounding explains less than this; a token that sees too much, too little or the wrong position does more.
"""

LENGTHS = (21, 9)
"""Tokens of the two sequences that a new model is tried with."""

FLAT = "all sequences in one forward pass per step"

Blocks = Callable[[int], int]
"""The number of cache blocks to have, from how many numbers one token's keys and values are."""


class Forward(Protocol):
    """A way of computing steps in ``dtype``; both return logits [rows or tokens, vocabulary]."""

    dtype: torch.dtype

    def compute(self, plan: StepPlan) -> Tensor: ...

    def plain(self, tokens: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class ExecutionStrategy:
    """A way of computing that was found exact, its cache in blocks, and why it is not the fast one (else empty)."""

    forward: Forward
    num_blocks: int
    cached_values: int
    obstacle: str

    def describe(self) -> str:
        return f"one sequence after the other: {self.obstacle}" if self.obstacle else FLAT


class HuggingFaceExecutor:
    """Computes steps, and chooses tokens from the logits.

    ``vocab_size`` is the tokenizer's, which may be less than the model's. ``invariant`` is the length of the context
    where no answer may depend on the batch.
    """

    def __init__(
        self, arrangement: ExecutionStrategy, block_size: int, vocab_size: int, invariant: int | None = None
    ) -> None:
        self.num_blocks = arrangement.num_blocks
        self.block_size = block_size
        self.vocab_size = vocab_size
        self._forward = forward = arrangement.forward
        self._invariant = Invariant(forward.compute, block_size, invariant, vocab_size) if invariant else None

    @torch.inference_mode()
    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        if self._invariant is not None:
            return self._invariant.execute(plan, scores, draws)
        return choose(self._forward.compute(plan), scores, draws, self.vocab_size)

    @torch.inference_mode()
    def reference(self, tokens: Sequence[int]) -> list[float]:
        return of_next(self._forward.plain(tokens), tokens)

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        with upcast(self._forward.dtype):
            return of_next(self._forward.plain(tokens), tokens)


def arrange(model: PreTrainedModel, context_length: int, block_size: int, blocks: Blocks) -> ExecutionStrategy:
    """Find a way of computing whose log-probabilities are those of a plain forward pass, by trying it.

    Raises `NoKeysAndValues` for a model that has none.
    """
    try:
        return _flat(model, context_length, block_size, blocks)
    except NotPaged as obstacle:
        log.info("one sequence after the other: %s", obstacle)
        return _sequential(model, context_length, block_size, blocks, str(obstacle))


def _flat(model: PreTrainedModel, context_length: int, block_size: int, blocks: Blocks) -> ExecutionStrategy:
    layers = attending(model, context_length)
    values = sum(2 * layer.groups * layer.channels for layer in layers)
    forward = Flat(model, layers, blocks(values), block_size)
    try:
        difference = _difference(model, forward, context_length, block_size, blocks(values))
    except Exception as error:  # every model's own code may raise its own
        forward.release()
        raise NotPaged(f"it cannot compute sequences side by side: {first_line(error)}") from error
    if not difference <= TOLERANCE[model.dtype]:
        forward.release()
        raise NotPaged(f"side by side its log-probabilities are off by {difference:.3g}")
    return ExecutionStrategy(forward, blocks(values), values, "")


def _sequential(
    model: PreTrainedModel, context_length: int, block_size: int, blocks: Blocks, obstacle: str
) -> ExecutionStrategy:
    pairs = cached(model)
    values = sum(pair.groups * (pair.keys + pair.values) for pair in pairs)
    forward = Sequential(model, pairs, blocks(values), block_size)
    try:
        difference = _difference(model, forward, context_length, block_size, blocks(values))
    except Exception as error:  # every model's own code may raise its own
        raise NoKeysAndValues(f"it cannot continue from cached keys and values: {first_line(error)}") from error
    if not difference <= TOLERANCE[model.dtype]:
        raise NoKeysAndValues(f"with a cache its log-probabilities are off by {difference:.3g}")
    return ExecutionStrategy(forward, blocks(values), values, obstacle)


@torch.inference_mode()
def _difference(
    model: PreTrainedModel, forward: Forward, context_length: int, block_size: int, num_blocks: int
) -> float:
    """Return how far two sequences, in chunks and side by side, are from plain passes, as `TOLERANCE` counts."""
    if context_length < 2:
        return 0.0
    first = min(-(-min(LENGTHS[0], context_length) // block_size), num_blocks - 2)
    lengths = min(LENGTHS[0], context_length, first * block_size), min(LENGTHS[1], context_length, block_size)
    generator = torch.Generator().manual_seed(0)
    rows = model.get_input_embeddings().num_embeddings
    long, short = (torch.randint(rows, (n,), generator=generator).tolist() for n in lengths)
    held, other, half = list(range(1, first + 1)), [first + 1], len(long) // 2
    plans = [
        StepPlan([Chunk(short, 0, 0, other), Chunk(long[:half], 0, 0, held)], range(len(short) + half)),
        StepPlan([Chunk(long[half:], half, half, held)], range(len(long) - half)),
    ]
    logits = torch.cat([forward.compute(plan) for plan in plans])
    got = torch.cat((_of_next(logits[: len(short) - 1], short[1:]), _of_next(logits[len(short) : -1], long[1:])))
    plain = torch.cat([_of_next(forward.plain(tokens)[:-1], tokens[1:]) for tokens in (short, long)])
    return float((got - plain).abs().mean() / (plain - plain.mean()).abs().mean().clamp_min(1e-6))


def _of_next(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Return the log-probability of each row's target."""
    index = torch.tensor(targets, device=logits.device, dtype=torch.long)[:, None]
    return logits.float().log_softmax(-1).gather(1, index)[:, 0]
