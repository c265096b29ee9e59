"""Tiny models whose weights are the same at every parallel layout, for the tests of the Megatron engine."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from launcher.checkpoints.base import Architecture
from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime.batching import BatchedAsyncEngine
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Dtype, Parallelism

TINY = Architecture(
    num_layers=4,
    hidden_size=64,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=16,
    ffn_hidden_size=128,
    vocab_size=260,
    context_length=256,
)


EXPERT = "local_experts"


@dataclass(frozen=True)
class NamedWeights:
    """Parameters drawn from their name: every rank draws the whole tensor and takes its part."""

    scale: float = 0.3
    gated: bool = True

    def load_into(self, model: Any) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._part(_global_name(model, name), parameter))

    def _part(self, name: str, parameter: Any) -> Any:
        import torch
        from megatron.core import parallel_state as state

        rank, world = state.get_tensor_model_parallel_rank(), state.get_tensor_model_parallel_world_size()
        if EXPERT in name:
            rank, world = state.get_expert_tensor_parallel_rank(), state.get_expert_tensor_parallel_world_size()
        axis = _split_axis(name)
        split, stride = axis is not None, 2 if "linear_fc1" in name and self.gated else 1
        axis = axis or 0
        shape = list(parameter.shape)
        shape[axis] *= world if split else 1
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        whole = drawn * self.scale if len(shape) > 1 else 1 + 0.1 * drawn
        if not split:
            return whole
        # Gated layers hold [gate, up] and each rank has a part of both.
        return torch.cat([half.chunk(world, axis)[rank] for half in whole.chunk(stride, axis)], axis)


def _split_axis(name: str) -> int | None:
    """Along which axis tensor parallelism splits a parameter of megatron-core's GPT."""
    if any(part in name for part in ("linear_qkv", "linear_fc1", "word_embeddings", "output_layer")):
        return 0
    return 1 if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else None


def _global_name(model: Any, name: str) -> str:
    parts = name.split(".")
    if parts[:2] == ["decoder", "layers"]:
        layer = model.decoder.layers[int(parts[2])]
        parts[2] = str(layer.layer_number)
        if EXPERT in name:
            at = parts.index(EXPERT) + 1
            parts[at] = str(layer.mlp.local_expert_indices[int(parts[at])])
    return ".".join(parts)


def worker_config(
    architecture: Architecture = TINY, parallelism: Parallelism | None = None, tokens: int = 8192
) -> WorkerConfig:
    return WorkerConfig(
        architecture=architecture,
        weights=NamedWeights(),
        parallelism=parallelism or Parallelism(),
        dtype=Dtype.fp32,
        device="cpu",
        num_blocks=tokens // 16 + 1,
        block_size=16,
        threads=1,
    )


@contextmanager
def executing(
    config: WorkerConfig,
    on_death: Callable[[Future[str]], None] = print,
    heartbeat_timeout_s: float | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> Iterator[Any]:
    """Start all ranks of a model and yield the leader's executor; ``prepare`` gets the leader's stage first."""
    from launcher.engines.megatron import distributed

    distributed.import_quietly()
    from launcher.engines.megatron.executor import MegatronExecutor
    from launcher.engines.megatron.parallel import launch_workers
    from launcher.engines.megatron.workers import HEARTBEAT_TIMEOUT_S

    with launch_workers(config, on_death, heartbeat_timeout_s=heartbeat_timeout_s or HEARTBEAT_TIMEOUT_S) as (
        stage,
        workers,
    ):
        if prepare is not None:
            prepare(stage)
        yield MegatronExecutor(stage, config, ByteTokenizer.vocab_size, workers)


@contextmanager
def batching(executor: Any, limits: SchedulerConfig) -> Iterator[BatchedAsyncEngine]:
    runner = BatchedAsyncEngine("tiny", ByteTokenizer(), executor, limits, {}, executor.describe)
    try:
        yield runner
    finally:
        runner.close()


@contextmanager
def running(
    config: WorkerConfig,
    limits: SchedulerConfig | None = None,
    prepare: Callable[[Any], None] | None = None,
    heartbeat_timeout_s: float | None = None,
) -> Iterator[BatchedAsyncEngine]:
    """Run a model as the engine does; a rank without a heartbeat for ``heartbeat_timeout_s`` counts as hung."""
    started: list[BatchedAsyncEngine] = []

    def on_death(reason: Future[str]) -> None:
        for runner in started:
            runner.fail(reason.result())

    limits = limits or SchedulerConfig(config.architecture.context_length)
    with executing(config, on_death, heartbeat_timeout_s, prepare) as executor, batching(executor, limits) as runner:
        started.append(runner)
        yield runner
