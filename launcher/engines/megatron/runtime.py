"""The choice of runtime: the portable one, or megatron-core's own engine where it can run."""

from __future__ import annotations

from enum import Enum

from launcher.checkpoints.base import Architecture
from launcher.core.errors import UserError
from launcher.engines.runtime import flash
from launcher.engines.runtime.dtypes import HALF
from launcher.settings.model import Dtype, Parallelism

KEY = "engine.runtime=mcore_dynamic"

MIN_FLASH_ATTN = (2, 7, 3)
"""The oldest flash-attn that megatron-core 0.16.1 takes."""

UNAVAILABLE = {
    "cuda_graphs": f"{KEY} runs its steps without graphs",
    "flash_decode": f"{KEY} always attends with flash-attn",
    "flash_attention": f"{KEY} always attends with flash-attn",
    "prefix_caching": f"{KEY} keeps no prefixes",
    "batch_invariant": f"{KEY} schedules its own batches",
}
"""Optimizations that only the portable runtime has, or lets the user choose, with the reason."""


class Runtime(Enum):
    """The implementation of scheduler and cache."""

    portable = "portable"
    mcore_dynamic = "mcore_dynamic"


def check(a: Architecture, p: Parallelism, dtype: Dtype, device: str) -> None:
    """Raise `UserError`, in one line, where megatron-core's engine cannot compute this model."""
    obstacle = _host_obstacle(dtype, device) or _model_obstacle(a, p)
    if obstacle:
        raise UserError(f"{KEY}: {obstacle}; engine.runtime=portable runs everywhere")


def _host_obstacle(dtype: Dtype, device: str) -> str:
    if device == "cpu":
        return "needs an NVIDIA GPU; this runs on CPU"
    if dtype not in HALF:
        return f"needs bf16 or fp16; this runs in {dtype.value}"
    found = flash.version()
    if found is None:
        return "needs the package flash-attn, which is not installed"
    if found < MIN_FLASH_ATTN:
        needed, has = (".".join(map(str, v)) for v in (MIN_FLASH_ATTN, found))
        return f"needs flash-attn {needed} or newer; installed is {has}"
    return ""


def _model_obstacle(a: Architecture, p: Parallelism) -> str:
    if p.world_size > 1:
        return f"runs in one process; parallelism asks for {p.world_size}"
    if a.sliding_window is not None and a.sliding_window < a.context_length:
        return f"knows no sliding window; the model has one of {a.sliding_window} tokens"
    if a.parallel_residual:
        return "knows no parallel residual, which the model has (GPT-NeoX)"
    return flash.head_dim_obstacle(a.kv_channels)
