"""The settings of every batched engine, and the sizes of cache and threads that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from launcher.core.errors import CheckpointError, UserError
from launcher.core.ranges import MANY, Count, CountFromZero, Positive, Range
from launcher.core.types import resolve
from launcher.core.units import GIB
from launcher.engines.base import Engine
from launcher.engines.runtime import decode_kernels
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Model

BLOCK_SIZE = 16
"""Default tokens of a cache block, where the kernel takes any number."""

DEFAULT_CACHE_GIB = 1.0
"""The default limit of the cache; it is smaller if all sequences together need less."""

SINGLE_THREAD_PARAMETERS = 20_000_000
"""Models with fewer parameters run faster on one thread: their matrices are too small to be split."""

LEAST_PACKED = 2**18
"""On a CPU, weights of fewer numbers are not packed: products of few rows are then faster without oneDNN."""


@dataclass
class BatchedEngine(Engine):
    """An engine with continuous batching over a paged key-value cache.

    ``max_sequences`` generate at the same time and ``max_queue`` more may wait. ``prefill_chunk`` is the number of
    prompt tokens computed per step. ``block_size`` is the number of tokens in a cache block (by default 16, with flash
    decode 256). ``kv_cache_gib`` is the size of the cache in GiB per process. By default it is what all sequences can
    need, at most 1 GiB, and never less than one whole context. ``threads`` is the number of threads per process, by
    default chosen by the model's size.
    """

    max_sequences: Count = SchedulerConfig.max_sequences
    max_queue: CountFromZero = SchedulerConfig.max_queue
    prefill_chunk: Count = SchedulerConfig.prefill_chunk
    block_size: Annotated[int, Range(2, MANY)] | None = None
    kv_cache_gib: Positive | None = None
    threads: Count | None = None

    neutral = frozenset({"max_sequences", "max_queue", "prefill_chunk", "block_size", "threads", "kv_cache_gib"})

    def limits(self, context: int, prefix_caching: bool, batch_invariant: bool) -> SchedulerConfig:
        """Return the bounds of a batch of sequences of at most ``context`` tokens."""
        sizes = (self.max_sequences, self.max_queue, self.prefill_chunk)
        return SchedulerConfig(context, *sizes, prefix_caching, aligned=batch_invariant)

    def resolve_block_size(self, flash_decode: bool) -> int:
        """Return the tokens of a cache block; `UserError` for a size that the kernel cannot read."""
        least = decode_kernels.page_multiple() if flash_decode else 1
        size = self.block_size or max(least, BLOCK_SIZE)
        if size % least:
            raise UserError(
                f"engine.block_size={size}: must be a multiple of {least} for flash decode; "
                f"leave it out for {least}, or set optimizations.flash_decode=false"
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
        """Return the number of threads of one process that has ``cpus`` CPUs."""
        return self.threads or (1 if parameters < SINGLE_THREAD_PARAMETERS else max(1, cpus))


def cache_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks hold ``tokens``, plus the reserved block 0."""
    return -(-tokens // block_size) + 1


def checkpoint_path(model: Model, needs: str) -> Path:
    """Return the path of the model's files. Raises `UserError` if empty, `CheckpointError` if it does not resolve."""
    if not model.path:
        raise UserError(f"model.path: empty; {needs}")
    try:
        return resolve(model.path)
    except FileNotFoundError as error:
        raise CheckpointError(f"model.path={model.path}: {error}") from error


def context_length(model: Model, limit: int | None, where: object, why: str = "") -> int:
    """Return the context length to serve; the files at ``where`` allow ``limit`` (None: they do not state one)."""
    length = limit if model.context_length is None else model.context_length
    if length is None:
        raise UserError(f"model.context_length: must be set; {where} does not state it")
    if length < 1 or (limit is not None and length > limit):
        most = f"1 to {limit}" if limit is not None else "1 or more"
        raise UserError(f"model.context_length={length}: the checkpoint allows {most}{f': {why}' if why else ''}")
    return length


def _round_up(value: float) -> float:
    """Round up to three digits, so that the printed number is enough."""
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
