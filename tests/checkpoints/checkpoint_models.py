"""Small models for the tests of checkpoints: built, run whole, or run over several ranks."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.checkpoints import detect
from launcher.checkpoints.base import Architecture
from launcher.engines.megatron.build import build
from launcher.engines.megatron.distributed import initialize, shutdown
from launcher.engines.megatron.modules import gather_logits
from launcher.model import Parallelism

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


def loaded(path: Path) -> nn.Module:
    """Open the checkpoint at ``path`` and load it into one process."""
    initialize(Parallelism(), CPU)
    checkpoint = detect(path)
    model = build(checkpoint.architecture, Parallelism(), torch.float32, CPU).eval()
    checkpoint.load_into(model)
    return model


def parallel_logits(path: Path, parallelism: Parallelism, folder: Path) -> Tensor:
    """Load the checkpoint over new processes, one per rank, and return the logits that the last stage computes."""
    context = multiprocessing.get_context("spawn")
    result = folder / "logits.pt"
    args = (path, parallelism, str(folder / "store"), result)
    ranks = [context.Process(target=_rank, args=(rank, *args)) for rank in range(parallelism.world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
        if rank.is_alive():
            rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * len(ranks)
    return torch.load(result)


@torch.no_grad()
def _rank(rank: int, path: Path, parallelism: Parallelism, store: str, result: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    initialize(parallelism, CPU, rank, dist.FileStore(store, parallelism.world_size))
    checkpoint = detect(path)
    model = build(checkpoint.architecture, parallelism, torch.float32, CPU).eval()
    checkpoint.load_into(model)
    stride = parallelism.world_size // parallelism.pipeline
    if not model.pre_process:
        hidden = torch.empty(TOKENS.shape[1], 1, checkpoint.architecture.hidden_size)
        dist.recv(hidden, rank - stride)
        model.set_input_tensor(hidden)
    out = model(TOKENS, torch.arange(TOKENS.shape[1])[None], None)
    if model.post_process:
        whole = gather_logits(out)
        if rank == parallelism.world_size - 1:
            torch.save(whole, result)
    else:
        dist.send(out.contiguous(), rank + stride)
    dist.barrier()
    shutdown()
