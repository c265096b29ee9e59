"""A transformers model as an `Executor`, with the fastest execution strategy that is exact for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from launcher.engines.base import TokenLogprob
from launcher.engines.huggingface.loading import first_line
from launcher.engines.huggingface.packed import PackedForward
from launcher.engines.huggingface.probe import NoKVCache, NotPackable, probe_attention, probe_cache
from launcher.engines.huggingface.sequential_forward import SequentialForward
from launcher.engines.runtime.invariant import execution
from launcher.engines.runtime.sampling import SampleRequest, ScoreRequest, of_next
from launcher.engines.runtime.step import Chunk, StepPlan
from launcher.engines.runtime.upcast import upcast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""The largest difference of log-probabilities from those of a plain forward pass, relative to their spread.

Rounding causes less than this; a token that sees too much, too little or the wrong position causes more.
"""

LENGTHS = (21, 9)
"""Tokens of the two sequences with which a new model is tried."""

PACKED = "all sequences in one forward pass per step"

BlockCount = Callable[[int], int]
"""Maps the count of numbers in one token's keys and values to a number of cache blocks."""


class Forward(Protocol):
    """Computes steps in ``dtype``; both methods return logits [rows or tokens, vocabulary]."""

    dtype: torch.dtype

    def compute(self, plan: StepPlan) -> Tensor: ...

    def plain(self, tokens: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class ExecutionStrategy:
    """A forward that was found exact, its cache, and why it is not the packed one (empty if it is)."""

    forward: Forward
    num_blocks: int
    cached_values: int
    obstacle: str

    def describe(self) -> str:
        return f"one sequence after the other: {self.obstacle}" if self.obstacle else PACKED


class HuggingFaceExecutor:
    """Computes steps, and chooses tokens from the logits.

    ``vocab_size`` is the tokenizer's, which may be less than the model's. ``invariant`` is the context length if steps
    must be batch-invariant, else None.
    """

    def __init__(
        self, strategy: ExecutionStrategy, block_size: int, vocab_size: int, invariant: int | None = None
    ) -> None:
        self.num_blocks = strategy.num_blocks
        self.block_size = block_size
        self.vocab_size = vocab_size
        self._forward = strategy.forward
        self._execute = execution(strategy.forward.compute, block_size, vocab_size, invariant)

    @torch.inference_mode()
    def execute(
        self, plan: StepPlan, scores: Sequence[ScoreRequest], draws: Sequence[SampleRequest]
    ) -> list[TokenLogprob]:
        return self._execute(plan, scores, draws)

    @torch.inference_mode()
    def reference(self, tokens: Sequence[int]) -> list[float]:
        return of_next(self._forward.plain(tokens), tokens)

    def exact_reference(self, tokens: Sequence[int]) -> list[float]:
        with upcast(self._forward.dtype):
            return of_next(self._forward.plain(tokens), tokens)


def choose_strategy(
    model: PreTrainedModel, context_length: int, block_size: int, blocks: BlockCount
) -> ExecutionStrategy:
    """Try the forwards, the fastest first, until one has the log-probabilities of a plain forward pass.

    Raises `NoKVCache` for a model with which none has.
    """
    try:
        return _packed(model, context_length, block_size, blocks)
    except NotPackable as obstacle:
        log.info("one sequence after the other: %s", obstacle)
        return _sequential(model, context_length, block_size, blocks, str(obstacle))


def _packed(model: PreTrainedModel, context_length: int, block_size: int, blocks: BlockCount) -> ExecutionStrategy:
    layers = probe_attention(model, context_length)
    values = sum(2 * layer.groups * layer.channels for layer in layers)
    forward = PackedForward(model, layers, blocks(values), block_size)
    try:
        difference = _difference(model, forward, context_length, block_size, blocks(values))
    except Exception as error:  # a model's own code may raise any exception
        forward.release()
        raise NotPackable(f"it cannot compute sequences in one packed pass: {first_line(error)}") from error
    if not difference <= TOLERANCE[model.dtype]:
        forward.release()
        raise NotPackable(f"packed, its log-probabilities are off by {difference:.3g}")
    return ExecutionStrategy(forward, blocks(values), values, "")


def _sequential(
    model: PreTrainedModel, context_length: int, block_size: int, blocks: BlockCount, obstacle: str
) -> ExecutionStrategy:
    shapes = probe_cache(model)
    values = sum(shape.groups * (shape.keys + shape.values) for shape in shapes)
    forward = SequentialForward(model, shapes, blocks(values), block_size)
    try:
        difference = _difference(model, forward, context_length, block_size, blocks(values))
    except Exception as error:  # a model's own code may raise any exception
        raise NoKVCache(f"it cannot continue from probe_cache keys and values: {first_line(error)}") from error
    if not difference <= TOLERANCE[model.dtype]:
        raise NoKVCache(f"with a cache its log-probabilities are off by {difference:.3g}")
    return ExecutionStrategy(forward, blocks(values), values, obstacle)


@torch.inference_mode()
def _difference(
    model: PreTrainedModel, forward: Forward, context_length: int, block_size: int, num_blocks: int
) -> float:
    """Return the difference of two sequences, in chunks and packed, from plain passes, as `TOLERANCE` defines it."""
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
