"""The component ``engine=megatron``: from a configuration to a running `BatchingRunner`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.allocation import Allocation
from launcher.checkpoints import detect, load_tokenizer
from launcher.checkpoints.base import Architecture, Checkpoint
from launcher.component import component
from launcher.core import Json, resolve
from launcher.engines.base import Engine, Runner
from launcher.engines.megatron import sizing, switches
from launcher.engines.megatron.placement import Placement, Saved
from launcher.engines.scheduler import Limits
from launcher.errors import CheckpointError, UserError
from launcher.model import Dtype, Model, Optimizations, Parallelism, Switch
from launcher.tokenizer import Tokenizer

if TYPE_CHECKING:
    from launcher.engines.batching import BatchingRunner

DEFAULT_CACHE_GB = 1.0
"""The cache's size where none is given, unless fewer tokens than that can ever be in use."""

SMALL = 20_000_000
"""Models with fewer parameters run faster on one thread: their matrices are too small to be worth sharing."""


LEAST = {"max_sequences": 1, "max_queue": 0, "prefill_chunk": 1, "block_size": 2, "threads": 1}
"""The smallest value of each number."""


@dataclass(frozen=True)
class Decision:
    """Everything that is settled before anything is loaded."""

    checkpoint: Checkpoint
    architecture: Architecture
    placement: Placement
    switches: list[Switch]
    context_length: int
    limits: Limits


@component("engine/megatron")
class Megatron(Engine):
    """A megatron-core GPT with continuous batching over a paged key-value cache.

    ``max_sequences`` generate at the same time and ``max_queue`` more may wait. ``prefill_chunk`` is the number of
    prompt tokens computed per step. ``block_size`` is the cache's page in tokens; ``kv_cache_gb`` its size per rank
    (by default what all sequences can need, at most one gigabyte, and never less than one whole context).
    ``threads`` per rank are chosen by the layout unless given.
    """

    max_sequences: int = 32
    max_queue: int = 1024
    prefill_chunk: int = 512
    block_size: int = 16
    kv_cache_gb: float | None = None
    threads: int | None = None

    neutral = frozenset({"max_sequences", "max_queue", "prefill_chunk", "block_size", "kv_cache_gb", "threads"})

    def __post_init__(self) -> None:
        for key, least in LEAST.items():
            value = getattr(self, key)
            if isinstance(value, int) and value < least:
                raise UserError(f"engine.{key}={value}: must be at least {least}")

    def load(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> AbstractContextManager[Runner]:
        return self._load(model, self.decide(model, parallelism, optimizations, allocation))

    def plan(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> dict[str, Json]:
        return self._facts(self.decide(model, parallelism, optimizations, allocation))

    def decide(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> Decision:
        """Read the checkpoint's metadata and settle what to do with it; `UserError` for what cannot work."""
        checkpoint = _open(model)
        a = checkpoint.architecture
        sizing.check_layout(a, parallelism, allocation.gpus)
        device = "cuda" if allocation.gpus else "cpu"
        dtype = switches.resolve_dtype(optimizations.dtype, a, device)
        resolved = switches.resolve(optimizations, dtype, device)
        context = _context_length(model, a)
        tokens = self._cache_tokens(a, parallelism, dtype, context)
        placement = Placement(
            architecture=a,
            weights=Saved(checkpoint.path),
            parallelism=parallelism,
            dtype=dtype,
            device=device,
            num_blocks=sizing.cache_blocks(tokens, self.block_size),
            block_size=self.block_size,
            threads=self.threads or threads_for(a, parallelism, allocation),
        )
        caching = switches.active(resolved, "prefix_caching")
        limits = Limits(context, self.max_sequences, self.max_queue, self.prefill_chunk, caching)
        return Decision(checkpoint, a, placement, resolved, context, limits)

    @contextmanager
    def _load(self, model: Model, decision: Decision) -> Iterator[Runner]:
        from launcher.engines.batching import BatchingRunner
        from launcher.engines.megatron import distributed

        distributed.import_quietly()
        from launcher.engines.megatron.executor import MegatronExecutor
        from launcher.engines.megatron.parallel import lead

        tokenizer = _tokenizer(model, decision.checkpoint)
        runner: BatchingRunner | None = None

        def on_death(reason: Future[str]) -> None:
            if runner is not None:
                runner.fail(reason.result())

        placement = decision.placement
        with lead(placement, on_death) as (stage, followers):
            executor = MegatronExecutor(stage, placement, tokenizer.vocab_size, followers)
            runner = BatchingRunner(model.name, tokenizer, executor, decision.limits, self._facts(decision))
            try:
                yield runner
            finally:
                runner.close()

    def _cache_tokens(self, a: Architecture, parallelism: Parallelism, dtype: Dtype, context: int) -> int:
        per_token = sizing.cache_bytes_per_token(a, parallelism, dtype)
        whole = sizing.cache_blocks(context, self.block_size) * self.block_size
        if self.kv_cache_gb is None:
            affordable = int(DEFAULT_CACHE_GB * sizing.GB) // per_token
            return max(whole, min(self.max_sequences * whole, affordable))
        tokens = int(self.kv_cache_gb * sizing.GB) // per_token
        if tokens < whole:
            least = whole * per_token / sizing.GB
            raise UserError(
                f"engine.kv_cache_gb={self.kv_cache_gb}: holds {tokens} tokens, less than one context of {context}; "
                f"at least {least:.3g} is needed, or a smaller model.context_length"
            )
        return tokens

    def _facts(self, decision: Decision) -> dict[str, Json]:
        a, placement = decision.architecture, decision.placement
        p, count = placement.parallelism, sizing.parameters(a)
        per_token = sizing.cache_bytes_per_token(a, p, placement.dtype)
        cache_tokens = (placement.num_blocks - 1) * placement.block_size
        weights = count * sizing.BYTES[placement.dtype] / (p.tensor * p.pipeline)
        return {
            "checkpoint_layout": decision.checkpoint.layout,
            "parameters": count,
            "dtype": placement.dtype.value,
            "device": placement.device,
            "world_size": p.world_size,
            "layout": {"tensor": p.tensor, "pipeline": p.pipeline, "context": p.context, "expert": p.expert},
            "threads_per_rank": placement.threads,
            "context_length": decision.context_length,
            "cache_tokens": cache_tokens,
            "memory_gb_per_rank": {
                "weights": round(weights / sizing.GB, 4),
                "kv_cache": round(cache_tokens * per_token / sizing.GB, 4),
            },
            "optimizations": switches.as_json(decision.switches),
        }


def _open(model: Model) -> Checkpoint:
    if not model.path:
        raise UserError("model.path: empty; engine=megatron needs a checkpoint")
    try:
        return detect(resolve(model.path))
    except FileNotFoundError as error:
        raise CheckpointError(f"model.path={model.path}: {error}") from error


def _tokenizer(model: Model, checkpoint: Checkpoint) -> Tokenizer:
    tokenizer = load_tokenizer(resolve(model.tokenizer)) if model.tokenizer else checkpoint.tokenizer()
    rows = checkpoint.architecture.vocab_size
    if tokenizer.vocab_size > rows:
        source = f"model.tokenizer={model.tokenizer}" if model.tokenizer else f"{checkpoint.path}: its tokenizer"
        raise CheckpointError(f"{source} has {tokenizer.vocab_size} tokens; the model's embedding has {rows} rows")
    return tokenizer


def _context_length(model: Model, a: Architecture) -> int:
    asked = model.context_length
    if asked is None:
        return a.context_length
    if not 1 <= asked <= a.context_length:
        raise UserError(f"model.context_length={asked}: the checkpoint allows 1 to {a.context_length}")
    return asked


def threads_for(a: Architecture, parallelism: Parallelism, allocation: Allocation) -> int:
    """Return how many threads one rank should compute with."""
    if sizing.parameters(a) < SMALL:
        return 1
    return max(1, allocation.cpus // parallelism.world_size)
