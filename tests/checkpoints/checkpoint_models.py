"""Small models for the tests of checkpoints: built, run whole, or run over several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher.checkpoints.base import Architecture
from launcher.distributed.allocation import Allocation
from launcher.engines.megatron import Megatron
from launcher.engines.megatron.build import build
from launcher.engines.megatron.distributed import initialize
from launcher.engines.megatron.parallel import launch_workers
from launcher.engines.megatron.worker_config import Weights, WorkerConfig
from launcher.settings.model import Dtype, Model, Parallelism
from tests.engines.deployments import deployed

HOST = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=1, gpus=0)
CPU = torch.device("cpu")
TOKENS = torch.tensor([[5, 17, 3, 60, 42, 8, 11, 29, 50, 1, 33, 7]])


def architecture(**changes: Any) -> Architecture:
    """Return a model of two layers and a vocabulary of 64, changed as asked."""
    base = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 8,
        "ffn_hidden_size": 48,
        "vocab_size": 64,
        "context_length": 32,
    }
    return Architecture(**base | changes)


def built(arch: Architecture, seed: int = 0) -> nn.Module:
    """Build the model in this process, with random weights; norms and biases too, so that nothing is left at 0 or 1."""
    initialize(Parallelism(), CPU)
    torch.manual_seed(seed)
    model = build(arch, Parallelism(), torch.float32, CPU).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor = TOKENS) -> Tensor:
    """Return the logits [1, length, vocabulary] of a plain forward pass in this process."""
    return model(tokens, torch.arange(tokens.shape[1])[None], None)


def worker_config(path: Path, parallelism: Parallelism | None = None) -> WorkerConfig:
    """Return how the engine builds and fills the model at ``path``: what it decides before it loads anything."""
    model = Model(path=str(path))
    return Megatron().decide(deployed(Megatron(), model, parallelism), HOST).worker_config


def filled(arch: Architecture, weights: Weights) -> nn.Module:
    """Build this architecture in one process, as the engine does, and fill it with these weights."""
    config = WorkerConfig(arch, weights, Parallelism(), Dtype.fp32, "cpu", num_blocks=3, block_size=16, threads=1)
    with config.model(0, CPU) as model:
        return model.eval()


def loaded(path: Path) -> nn.Module:
    """Load the checkpoint at ``path`` into one process, as the engine does."""
    with worker_config(path).model(0, CPU) as model:
        return model.eval()


def parallel_logits(path: Path, parallelism: Parallelism) -> Tensor:
    """Load the checkpoint over processes, as the engine does; return the logits [1, length, vocabulary] of `TOKENS`."""
    config, tokens = worker_config(path, parallelism), TOKENS[0].tolist()
    with launch_workers(config, print) as (stage, workers):
        assert workers is not None
        workers.plain(tokens, exact=False)
        found = stage.plain(tokens)
    assert found is not None
    return found[None].clone()
