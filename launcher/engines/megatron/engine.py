"""The component ``engine=megatron``: from a deployment to a running `BatchedAsyncEngine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launcher.checkpoints import open_model
from launcher.checkpoints.base import Checkpoint, NotComputed
from launcher.checkpoints.claims import parameters
from launcher.checkpoints.huggingface.foreign import read_config
from launcher.checkpoints.huggingface.quantization.methods import SERVERS
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.core.units import GIB
from launcher.distributed.allocation import Allocation
from launcher.engines import optimization_status
from launcher.engines.base import AsyncEngine, Deployment
from launcher.engines.huggingface import supported_models
from launcher.engines.megatron import layout, runtime
from launcher.engines.megatron.runtime import Runtime
from launcher.engines.megatron.worker_config import CheckpointWeights, WorkerConfig
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.dtypes import BYTES
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.engines.runtime.sizing import BatchedEngine, cache_blocks, checkpoint_path, context_length
from launcher.engines.runtime.vocabulary import check_tokenizer, open_tokenizer, served_tokens, tokenizer_facts
from launcher.settings.component import component
from launcher.settings.model import Dtype, Model, OptimizationStatus


@dataclass(frozen=True)
class Decision:
    """Everything that is decided before the model is loaded."""

    checkpoint: Checkpoint
    worker_config: WorkerConfig
    optimizations: list[OptimizationStatus]
    limits: SchedulerConfig


@component("engine/megatron")
class Megatron(BatchedEngine):
    """A megatron-core GPT with continuous batching over a paged key-value cache, in one process or in many.

    ``runtime`` is ``portable``, the launcher's own scheduler and cache, or ``mcore_dynamic``, megatron-core's dynamic
    inference engine, on one GPU.
    """

    runtime: Runtime = Runtime.portable

    packages = ("torch", "megatron", "transformers")

    def load(self, deployment: Deployment, allocation: Allocation) -> AbstractContextManager[AsyncEngine]:
        model, decision = deployment.model, self.decide(deployment, allocation)
        if self.runtime is Runtime.mcore_dynamic:
            return self._load_dynamic(model, decision)
        return self._load(deployment, decision, allocation)

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        return self._facts(self.decide(deployment, allocation))

    def check_tokenizer(self, model: Model) -> None:
        checkpoint = open_checkpoint(model)
        check_tokenizer(model, checkpoint.tokenizer, checkpoint.architecture.vocab_size)

    def fingerprint(self, model: Model) -> str | None:
        return open_checkpoint(model).fingerprint() if model.path else None

    def decide(self, deployment: Deployment, allocation: Allocation) -> Decision:
        """Read the checkpoint's metadata and decide how to serve it; `UserError` for what cannot work."""
        model, parallelism, optimizations = deployment.model, deployment.parallelism, deployment.optimizations
        checkpoint = open_checkpoint(model)
        a = checkpoint.architecture
        layout.check_layout(a, parallelism, allocation.gpus if allocation.ranks is None else 0)
        device = "cuda" if allocation.gpus else "cpu"
        dtype = optimization_status.resolve_dtype(optimizations.dtype, Dtype[a.dtype], device)
        dynamic = self.runtime is Runtime.mcore_dynamic
        if dynamic:
            runtime.check(a, parallelism, dtype, device)
        obstacles = layout.obstacles(a) | (runtime.UNAVAILABLE if dynamic else {})
        resolved = optimization_status.resolve(optimizations, dtype, device, obstacles)
        names = ("flash_decode", "cuda_graphs", "batch_invariant")
        flash, graphs, invariant = (optimization_status.is_active(resolved, name) for name in names)
        block_size = self.resolve_block_size(flash or dynamic)
        context = context_length(model, a.context_length, checkpoint.path)
        tokens = self.cache_tokens(layout.cache_bytes_per_token(a, parallelism, dtype), context, block_size)
        num_blocks = cache_blocks(tokens, block_size)
        worker_config = WorkerConfig(
            architecture=a,
            weights=CheckpointWeights(checkpoint.path, model.bounds, model.peft),
            parallelism=parallelism,
            dtype=dtype,
            device=device,
            num_blocks=num_blocks,
            block_size=block_size,
            threads=self.threads_for(parameters(a), allocation.cpus_of_a_rank(parallelism.world_size)),
            flash_attention=optimization_status.is_active(resolved, "flash_attention"),
            flash_decode=flash,
            graphs=Buckets.of(self.max_sequences, context, block_size, num_blocks, full_width=flash)
            if graphs
            else None,
        )
        return Decision(
            checkpoint, worker_config, resolved, self.limits(context, optimizations.prefix_caching, invariant)
        )

    @contextmanager
    def _load(self, deployment: Deployment, decision: Decision, allocation: Allocation) -> Iterator[AsyncEngine]:
        from launcher.engines.megatron import distributed
        from launcher.engines.runtime.batching import BatchedAsyncEngine

        distributed.import_quietly()
        from launcher.engines.megatron.executor import launching
        from launcher.engines.megatron.supervisor import Supervisor

        model, worker_config = deployment.model, decision.worker_config
        rows, limits = worker_config.architecture.vocab_size, decision.limits
        invariant = limits.context_length if limits.aligned else None
        with ExitStack() as stack:
            tokenizer = stack.enter_context(open_tokenizer(model, decision.checkpoint.tokenizer))
            vocab_size = served_tokens(tokenizer, rows, model)
            launch = partial(launching, worker_config, vocab_size, invariant, allocation, deployment.log_of_rank)
            ranks = Supervisor(launch, tuple if allocation.ranks is None else allocation.ranks.wait)
            stack.callback(ranks.close)
            facts = self._facts(decision) | tokenizer_facts(tokenizer, rows, model)
            runner = BatchedAsyncEngine(model.name, tokenizer, ranks.start(), limits, facts, ranks.measured)
            stack.callback(runner.close)
            if deployment.replica is None and worker_config.parallelism.world_size > 1:
                stack.enter_context(ranks.keeping(runner))
            yield runner

    @contextmanager
    def _load_dynamic(self, model: Model, decision: Decision) -> Iterator[AsyncEngine]:
        """Load the model into megatron-core's own engine, in this process."""
        from launcher.engines.megatron import distributed
        from launcher.engines.runtime.batching import BatchedAsyncEngine

        distributed.import_quietly()
        from launcher.engines.megatron.dynamic import RequestTracker
        from launcher.engines.megatron.mcore import Dynamic

        worker_config, limits = decision.worker_config, decision.limits
        rows = worker_config.architecture.vocab_size
        with (
            open_tokenizer(model, decision.checkpoint.tokenizer) as tokenizer,
            worker_config.model(0, worker_config.torch_device(0)) as built,
        ):
            vocab_size = served_tokens(tokenizer, rows, model)
            tracker = RequestTracker(limits, vocab_size, tokenizer.eos_ids)
            engine = Dynamic(built, worker_config, limits, vocab_size, tracker)
            facts = self._facts(decision) | tokenizer_facts(tokenizer, rows, model)
            runner = BatchedAsyncEngine(model.name, tokenizer, engine, limits, facts, scheduler=tracker)
            try:
                yield runner
            finally:
                runner.close()
                engine.close()

    def _facts(self, decision: Decision) -> dict[str, Json]:
        a, worker_config = decision.worker_config.architecture, decision.worker_config
        p, count = worker_config.parallelism, parameters(a)
        per_token = layout.cache_bytes_per_token(a, p, worker_config.dtype)
        cache_tokens = (worker_config.num_blocks - 1) * worker_config.block_size
        weights = count * BYTES[worker_config.dtype] / (p.tensor * p.pipeline)
        packed = layout.packed_output_bytes(a, p, worker_config.dtype, worker_config.device)
        return {
            "checkpoint_layout": decision.checkpoint.layout,
            **decision.checkpoint.facts(),
            **({"unread_files": unread} if (unread := decision.checkpoint.unread_files()) else {}),
            "parameters": count,
            "dtype": worker_config.dtype.value,
            "layers": a.num_layers,
            "experts": a.num_experts,
            "device": worker_config.device,
            "runtime": self.runtime.value,
            "world_size": p.world_size,
            "layout": {"tensor": p.tensor, "pipeline": p.pipeline, "context": p.context, "expert": p.expert},
            "threads_per_rank": worker_config.threads,
            "context_length": decision.limits.context_length,
            "cache_tokens": cache_tokens,
            "memory_gib_per_rank": {
                "weights": round(weights / GIB, 4),
                "kv_cache": round(cache_tokens * per_token / GIB, 4),
                **({"packed_output": round(packed / GIB, 4)} if packed else {}),
            },
            "optimizations": optimization_status.as_json(decision.optimizations),
        }


def open_checkpoint(model: Model) -> Checkpoint:
    """Open the checkpoint.

    Raises `NotComputed`, which names engine=huggingface, for a checkpoint that only that engine serves. Raises
    `CheckpointError` for one that is damaged, or that neither engine serves.
    """
    path = checkpoint_path(model, "engine=megatron needs a checkpoint")
    try:
        return open_model(path, model.bounds, model.peft)
    except NotComputed as refused:
        obstacle = supported_models.unsupported_reason(path, model.bounds)
        if obstacle is None:
            raise NotComputed(f"{refused}; engine=huggingface can serve it") from refused
        line = f"{refused}; engine=huggingface cannot serve it either: {obstacle}"
        raise CheckpointError(f"{line}{_servers(path, model, line)}") from refused


def _servers(path: Path, model: Model, line: str) -> str:
    """Return what names the servers that may take a model; nothing where they cannot, or ``line`` names them."""
    if SERVERS in line or not (path / "config.json").is_file():
        return ""
    try:
        read_config(path, model.bounds)
    except CheckpointError:
        return ""
    return f"; {SERVERS}"
