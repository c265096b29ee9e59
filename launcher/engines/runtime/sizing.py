"""The settings that every batched engine has, and the sizes of cache and threads that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from launcher.core.errors import UserError
from launcher.core.ranges import MANY, Count, CountFromZero, Positive, Range
from launcher.core.units import GIB
from launcher.engines.base import Engine
from launcher.engines.runtime.flash import PAGE
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Dtype, Model

BLOCK_SIZE = 16
"""Tokens of a page of the cache, where none are given and any will do."""

BYTES = {Dtype.fp32: 4, Dtype.bf16: 2, Dtype.fp16: 2}

DEFAULT_CACHE_GIB = 1.0
"""The cache's size where none is given, unless fewer tokens than that can ever be in use."""

SMALL = 20_000_000
"""Models with fewer parameters run faster on one thread: their matrices are too small to be worth sharing."""


@dataclass
class BatchedEngine(Engine):
    """An engine with continuous batching over a paged key-value cache.

    ``max_sequences`` generate at the same time and ``max_queue`` more may wait. ``prefill_chunk`` is the number of
    prompt tokens computed per step. ``block_size`` is the cache's page in tokens (by default 16, and 256 where flash
    decode is active); ``kv_cache_gib`` its size in GiB per process (by default what all sequences can need, at most
    1 GiB, and never less than one whole context).
    ``threads`` per process are chosen by the model's size unless given.
    """

    max_sequences: Count = SchedulerConfig.max_sequences
    max_queue: CountFromZero = SchedulerConfig.max_queue
    prefill_chunk: Count = SchedulerConfig.prefill_chunk
    block_size: Annotated[int, Range(2, MANY)] | None = None
    kv_cache_gib: Positive | None = None
    threads: Count | None = None

    neutral = frozenset({"max_sequences", "max_queue", "prefill_chunk", "block_size", "threads", "kv_cache_gib"})

    def limits(self, context: int, prefix_caching: bool, batch_invariant: bool) -> SchedulerConfig:
        """Return what bounds a batch of sequences of at most ``context`` tokens."""
        sizes = (self.max_sequences, self.max_queue, self.prefill_chunk)
        return SchedulerConfig(context, *sizes, prefix_caching, aligned=batch_invariant)

    def page(self, flash_decode: bool) -> int:
        """Return the tokens of a page of the cache; `UserError` for one that the kernel cannot read."""
        least = PAGE if flash_decode else 1
        size = self.block_size or max(least, BLOCK_SIZE)
        if size % least:
            raise UserError(
                f"engine.block_size={size}: flash decode reads pages of a multiple of {least} tokens; "
                f"leave it out for {least}, or switch optimizations.flash_decode off"
            )
        return size

    def cache_tokens(self, per_token: int, context: int, block_size: int) -> int:
        """Return how many tokens of ``per_token`` bytes the cache holds; `UserError` if less than one context."""
        whole = cache_blocks(context, block_size) * block_size
        if self.kv_cache_gib is None:
            return max(whole, min(self.max_sequences * whole, int(DEFAULT_CACHE_GIB * GIB) // per_token))
        tokens = int(self.kv_cache_gib * GIB) // per_token
        if tokens < whole:
            raise UserError(
                f"engine.kv_cache_gib={self.kv_cache_gib}: holds {tokens} tokens, less than one context of {context}; "
                f"at least {_round_up((whole * per_token + 1) / GIB):g} is needed, or a smaller model.context_length"
            )
        return tokens

    def threads_for(self, parameters: int, cpus: int) -> int:
        """Return how many threads one process computes with, of the ``cpus`` that are its own."""
        return self.threads or (1 if parameters < SMALL else max(1, cpus))


def cache_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks hold so many tokens, and the one that belongs to nobody."""
    return -(-tokens // block_size) + 1


def context_length(model: Model, limit: int | None, where: object, why: str = "") -> int:
    """Return the context to serve with, where the files at ``where`` allow ``limit`` (None: they do not say)."""
    length = limit if model.context_length is None else model.context_length
    if length is None:
        raise UserError(f"model.context_length: must be given; {where} does not say it")
    if length < 1 or (limit is not None and length > limit):
        most = f"1 to {limit}" if limit is not None else "1 or more"
        raise UserError(f"model.context_length={length}: the checkpoint allows {most}{f': {why}' if why else ''}")
    return length


def _round_up(value: float) -> float:
    """Return the next number of three digits, so that what is printed is enough."""
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
