"""The component ``engine=huggingface``: from a deployment to a running `BatchedAsyncEngine`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from launcher.checkpoints.huggingface.class_defaults import CLASSES
from launcher.checkpoints.huggingface.safetensors_index import read_index
from launcher.checkpoints.peft.changes import Adapter
from launcher.core.errors import CheckpointError, UserError
from launcher.core.types import Json
from launcher.core.units import GIB
from launcher.distributed.allocation import Allocation
from launcher.engines import optimization_status
from launcher.engines.base import AsyncEngine, Deployment
from launcher.engines.huggingface import source
from launcher.engines.huggingface.source import Source
from launcher.engines.runtime import invariant
from launcher.engines.runtime.dtypes import BYTES, torch_dtype
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.engines.runtime.sizing import BatchedEngine, cache_blocks, checkpoint_path, context_length
from launcher.engines.runtime.threads import wait_asleep
from launcher.engines.runtime.vocabulary import check_tokenizer, open_tokenizer, served_tokens, tokenizer_facts
from launcher.settings.component import component
from launcher.settings.model import Dtype, Model, OptimizationStatus, Parallelism

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from launcher.engines.huggingface.executor import ExecutionStrategy

UNAVAILABLE = dict.fromkeys(
    ("cuda_graphs", "flash_decode"), "engine=megatron only: a transformers model runs a step in its own code"
)
"""Optimizations that models of transformers do not have, with the reason."""

MIN_BLOCKS = 3
"""The reserved block, and one for each of two sequences: the blocks that trying a new model takes."""


@dataclass(frozen=True)
class Decision:
    """Everything that is decided before the model is loaded."""

    source: Source
    dtype: Dtype
    device: str
    threads: int
    optimizations: list[OptimizationStatus]
    limits: SchedulerConfig
    adapter: Adapter | None = None


@component("engine/huggingface")
class HuggingFace(BatchedEngine):
    """A causal language model of transformers with continuous batching over a paged key-value cache."""

    packages = ("torch", "transformers")

    def load(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[AsyncEngine]:
        return self._load(deployment.model, self.decide(deployment, allocation))

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        decision = self.decide(deployment, allocation)
        return self._facts(decision, decision.source.cached_values)

    def check_tokenizer(self, model: Model) -> None:
        found = _open(model)
        check_tokenizer(model, found.tokenizer, found.rows)

    def fingerprint(self, model: Model) -> str:
        found = _open(model)
        adapter, own = _adapter(model, found), found.fingerprint()
        return own if adapter is None else adapter.combined(own)

    def decide(self, deployment: Deployment, allocation: Allocation) -> Decision:
        """Read the model's metadata and decide how to serve it; `UserError` for what cannot work."""
        _refuse_parallel(deployment.parallelism)
        model, optimizations = deployment.model, deployment.optimizations
        found = _open(model)
        device = "cuda" if allocation.gpus else "cpu"
        dtype = optimization_status.resolve_dtype(optimizations.dtype, found.dtype, device)
        obstacles = UNAVAILABLE | ({"batch_invariant": invariant.EXPERTS} if found.experts else {})
        resolved = optimization_status.resolve(optimizations, dtype, device, obstacles)
        context = context_length(model, found.context_length, found.path, found.context_reason)
        if found.cached_values is not None:
            self.cache_tokens(found.cached_values * BYTES[dtype], context, self.resolve_block_size(False))
        threads = self.threads_for(found.parameters, allocation.cpus)
        alone = optimization_status.is_active(resolved, "batch_invariant")
        limits = self.limits(context, optimizations.prefix_caching, alone)
        return Decision(found, dtype, device, threads, resolved, limits, _adapter(model, found))

    @contextmanager
    def _load(self, model: Model, decision: Decision) -> Iterator[AsyncEngine]:
        wait_asleep()
        os.environ["USE_HUB_KERNELS"] = "NO"  # read when transformers is imported: some models fetch code for speed
        import torch

        from launcher.engines.huggingface import loading
        from launcher.engines.huggingface.executor import HuggingFaceExecutor
        from launcher.engines.runtime.batching import BatchedAsyncEngine
        from launcher.engines.runtime.paged import allow_flash

        torch.set_num_threads(decision.threads)
        dtype, device = torch_dtype(decision.dtype), torch.device(decision.device)
        allow_flash(optimization_status.is_active(decision.optimizations, "flash_attention"), device)
        with open_tokenizer(model, decision.source.tokenizer) as tokenizer:
            loaded = loading.load(decision.source, dtype, device, decision.adapter)
            rows = loaded.get_input_embeddings().num_embeddings
            vocab_size = served_tokens(tokenizer, rows, model)
            strategy = self._choose_strategy(loaded, decision)
            context = decision.limits.context_length if decision.limits.aligned else None
            executor = HuggingFaceExecutor(strategy, self.resolve_block_size(False), vocab_size, context)
            facts = self._facts(decision, strategy.cached_values)
            facts |= {"batching": strategy.describe()}
            text_config = loaded.config.get_text_config()
            facts["layers"] = text_config.num_hidden_layers
            facts["experts"] = decision.source.experts
            facts |= tokenizer_facts(tokenizer, rows, model)
            with closing(BatchedAsyncEngine(model.name, tokenizer, executor, decision.limits, facts)) as runner:
                yield runner

    def _choose_strategy(self, loaded: PreTrainedModel, decision: Decision) -> ExecutionStrategy:
        from launcher.engines.huggingface.executor import choose_strategy
        from launcher.engines.huggingface.probe import NoKVCache

        context, block_size = decision.limits.context_length, self.resolve_block_size(False)

        def blocks(values: int) -> int:
            tokens = self.cache_tokens(values * BYTES[decision.dtype], context, block_size)
            return max(MIN_BLOCKS, cache_blocks(tokens, block_size))

        try:
            return choose_strategy(loaded, context, block_size, blocks)
        except NoKVCache as error:
            where, kind = decision.source.path, decision.source.kind
            raise CheckpointError(f"{where}: model_type={kind} cannot be served: {error}") from error

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
            "optimizations": optimization_status.as_json(decision.optimizations),
        }
        if decision.adapter is not None:
            facts["peft"] = decision.adapter.facts()
        memory = {"weights": round(found.parameters * BYTES[dtype] / GIB, 4)}
        if found.unread:
            facts["unread_files"] = list(found.unread)
        if found.context_reason and context == found.context_length:
            facts["context_reason"] = found.context_reason
        if values is not None:
            tokens = self.cache_tokens(values * BYTES[dtype], context, self.resolve_block_size(False))
            facts["cache_tokens"] = tokens
            memory["kv_cache"] = round(tokens * values * BYTES[dtype] / GIB, 4)
        return facts | {"memory_gib_per_rank": memory}


def _adapter(model: Model, base: Source) -> Adapter | None:
    """Open the adapter of the model. Raises `CheckpointError` for one in Megatron's names, or of another model."""
    from launcher.checkpoints.peft.depth import refuse_other_weights
    from launcher.checkpoints.peft.opening import open_adapter

    if model.peft is None:
        return None
    adapter = open_adapter(model.peft, model.bounds, checkpoint_path(model, "model.peft needs its base"))
    if adapter.convention == "megatron":
        raise CheckpointError(f"model.peft={model.peft}: an adapter of Megatron's; engine=megatron merges it")
    if base.layout == "huggingface":
        shapes = {name: entry.shape for name, entry in read_index(base.path, model.bounds).items()}
        refuse_other_weights(adapter, shapes, base.path, plain=base.kind in CLASSES and not base.experts)
    return adapter


def _refuse_parallel(parallelism: Parallelism) -> None:
    for field in fields(parallelism):
        value = getattr(parallelism, field.name)
        if value != 1:
            raise UserError(
                f"parallelism.{field.name}={value}: must be 1 with engine=huggingface, which runs in one process "
                "(engine=megatron offers tensor and pipeline)"
            )


def _open(model: Model) -> Source:
    path = checkpoint_path(model, "engine=huggingface needs a Hugging Face folder or a .gguf file")
    return source.read(path, model.bounds)
