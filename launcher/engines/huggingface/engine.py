"""The component ``engine=huggingface``: from a configuration to a running `BatchingRunner`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from launcher.allocation import Allocation
from launcher.checkpoints import load_tokenizer
from launcher.component import component
from launcher.core import Json, resolve
from launcher.engines.base import Engine, Runner
from launcher.engines.huggingface import source, switches
from launcher.engines.huggingface.source import Source
from launcher.engines.megatron.sizing import BYTES, GB, cache_blocks
from launcher.engines.scheduler import Limits
from launcher.errors import CheckpointError, UserError
from launcher.model import Dtype, Model, Optimizations, Parallelism, Switch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from launcher.engines.huggingface.executor import Arrangement
    from launcher.tokenizer import Tokenizer

DEFAULT_CACHE_GB = 1.0
"""The cache's size where none is given, unless fewer tokens than that can ever be in use."""

SMALL = 20_000_000
"""Models with fewer parameters run faster on one thread: their matrices are too small to be worth sharing."""

LEAST = {"max_sequences": 1, "max_queue": 0, "prefill_chunk": 1, "block_size": 2, "threads": 1}
"""The smallest value of each number."""

LEAST_BLOCKS = 3
"""The block that belongs to nobody, and one for each of two sequences: what trying out a new model takes."""


@dataclass(frozen=True)
class Decision:
    """Everything that is settled before anything is loaded."""

    source: Source
    dtype: Dtype
    device: str
    threads: int
    switches: list[Switch]
    limits: Limits


@component("engine/huggingface")
class HuggingFace(Engine):
    """A causal language model of transformers with continuous batching over a paged key-value cache.

    ``max_sequences`` generate at the same time and ``max_queue`` more may wait. ``prefill_chunk`` is the number of
    prompt tokens computed per step. ``block_size`` is the cache's page in tokens; ``kv_cache_gb`` its size (by default
    what all sequences can need, at most one gigabyte, and never less than one whole context). ``threads`` are chosen by
    the model's size unless given.
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
        decision = self.decide(model, parallelism, optimizations, allocation)
        return self._facts(decision, decision.source.cached_values)

    def fingerprint(self, model: Model) -> str:
        return _open(model).fingerprint()

    def decide(
        self, model: Model, parallelism: Parallelism, optimizations: Optimizations, allocation: Allocation
    ) -> Decision:
        """Read the model's metadata and settle what to do with it; `UserError` for what cannot work."""
        _refuse_parallel(parallelism)
        found = _open(model)
        device = "cuda" if allocation.gpus else "cpu"
        dtype = switches.resolve_dtype(optimizations.dtype, found.dtype, device)
        resolved = switches.resolve(optimizations, dtype, device)
        context = _context_length(model, found)
        if found.cached_values is not None:
            self._cache_tokens(found.cached_values, dtype, context)
        threads = self.threads or (1 if found.parameters < SMALL else allocation.cpus)
        limits = Limits(context, self.max_sequences, self.max_queue, self.prefill_chunk, optimizations.prefix_caching)
        return Decision(found, dtype, device, threads, resolved, limits)

    @contextmanager
    def _load(self, model: Model, decision: Decision) -> Iterator[Runner]:
        import torch

        from launcher.engines.batching import BatchingRunner
        from launcher.engines.huggingface import loading
        from launcher.engines.huggingface.executor import HuggingFaceExecutor

        torch.set_num_threads(decision.threads)
        dtype = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16, Dtype.fp16: torch.float16}[decision.dtype]
        tokenizer = _tokenizer(model, decision.source)
        loaded, unused = loading.load(decision.source, dtype, torch.device(decision.device))
        _refuse_foreign(tokenizer, loaded, decision.source)
        arrangement = self._arrange(loaded, decision)
        executor = HuggingFaceExecutor(arrangement, self.block_size, tokenizer.vocab_size)
        facts = self._facts(decision, arrangement.cached_values)
        facts |= {"batching": arrangement.describe(), "unused_tensors": unused}
        runner = BatchingRunner(model.name, tokenizer, executor, decision.limits, facts)
        try:
            yield runner
        finally:
            runner.close()

    def _arrange(self, loaded: PreTrainedModel, decision: Decision) -> Arrangement:
        from launcher.engines.huggingface.executor import arrange
        from launcher.engines.huggingface.probe import NoKeysAndValues

        context = decision.limits.context_length

        def blocks(values: int) -> int:
            return max(LEAST_BLOCKS, cache_blocks(self._cache_tokens(values, decision.dtype, context), self.block_size))

        try:
            return arrange(loaded, context, self.block_size, blocks)
        except NoKeysAndValues as error:
            where, kind = decision.source.path, decision.source.kind
            raise CheckpointError(f"{where}: model_type={kind} cannot be served: {error}") from error

    def _cache_tokens(self, values: int, dtype: Dtype, context: int) -> int:
        """Return how many tokens the cache is to hold, each of so many ``values``."""
        per_token = values * BYTES[dtype]
        whole = cache_blocks(context, self.block_size) * self.block_size
        if self.kv_cache_gb is None:
            return max(whole, min(self.max_sequences * whole, int(DEFAULT_CACHE_GB * GB) // per_token))
        tokens = int(self.kv_cache_gb * GB) // per_token
        if tokens < whole:
            least = math.ceil(1000 * whole * per_token / GB) / 1000
            raise UserError(
                f"engine.kv_cache_gb={self.kv_cache_gb}: holds {tokens} tokens, less than one context of {context}; "
                f"at least {least:g} is needed, or a smaller model.context_length"
            )
        return tokens

    def _facts(self, decision: Decision, values: int | None) -> dict[str, Json]:
        found, dtype, context = decision.source, decision.dtype, decision.limits.context_length
        facts = {
            "checkpoint_layout": found.layout,
            "model_type": found.kind,
            "parameters": found.parameters,
            "dtype": dtype.value,
            "device": decision.device,
            "world_size": 1,
            "threads_per_rank": decision.threads,
            "context_length": context,
            "optimizations": switches.as_json(decision.switches),
        }
        memory = {"weights": round(found.parameters * BYTES[dtype] / GB, 4)}
        if found.context_reason and context == found.context_length:
            facts["context_reason"] = found.context_reason
        if values is not None:
            tokens = self._cache_tokens(values, dtype, context)
            facts["cache_tokens"] = tokens
            memory["kv_cache"] = round(tokens * values * BYTES[dtype] / GB, 4)
        return facts | {"memory_gb_per_rank": memory}


def _refuse_parallel(parallelism: Parallelism) -> None:
    for field in fields(parallelism):
        value = getattr(parallelism, field.name)
        if value != 1:
            raise UserError(
                f"parallelism.{field.name}={value}: engine=huggingface runs in one process; accepted is 1 "
                "(engine=megatron offers tensor and pipeline)"
            )


def _open(model: Model) -> Source:
    if not model.path:
        raise UserError("model.path: empty; engine=huggingface needs a Hugging Face folder or a .gguf file")
    try:
        return source.read(resolve(model.path))
    except FileNotFoundError as error:
        raise CheckpointError(f"model.path={model.path}: {error}") from error


def _context_length(model: Model, found: Source) -> int:
    asked, limit = model.context_length, found.context_length
    if limit is None and asked is None:
        raise UserError(f"model.context_length: must be given; {found.path} does not say it")
    if asked is not None and (asked < 1 or (limit is not None and asked > limit)):
        why = f": {found.context_reason}" if found.context_reason else ""
        most = f"1 to {limit}" if limit is not None else "1 or more"
        raise UserError(f"model.context_length={asked}: the checkpoint allows {most}{why}")
    length = limit if asked is None else asked
    assert length is not None
    return length


def _tokenizer(model: Model, found: Source) -> Tokenizer:
    return load_tokenizer(resolve(model.tokenizer)) if model.tokenizer else found.tokenizer()


def _refuse_foreign(tokenizer: Tokenizer, loaded: PreTrainedModel, found: Source) -> None:
    rows = loaded.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{found.path}: its tokenizer has {tokenizer.vocab_size} tokens; the model's embedding has {rows} rows"
        )
