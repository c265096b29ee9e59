"""What steps a model: our portable runtime, or megatron-core's own engine where it can run."""

from __future__ import annotations

from enum import Enum

from launcher.checkpoints.base import Architecture
from launcher.core.errors import UserError
from launcher.engines.optimization_status import HALF
from launcher.engines.runtime import flash
from launcher.settings.model import Dtype, Parallelism

KEY = "engine.runtime=mcore_dynamic"

LEAST_FLASH = (2, 7, 3)
"""The oldest flash-attn that megatron-core 0.16.1 takes."""

OBSTACLES = {
    "cuda_graphs": f"{KEY} runs its steps without",
    "flash_decode": f"{KEY} always attends with flash-attn",
    "flash_attention": f"{KEY} always attends with flash-attn",
    "prefix_caching": f"{KEY} keeps no prefixes",
    "batch_invariant": f"{KEY} plans its own batches",
}
"""What the portable runtime offers and megatron-core's does not, or not to choose."""


class Runtime(Enum):
    """Who schedules, and keeps the cache."""

    portable = "portable"
    mcore_dynamic = "mcore_dynamic"


def check(a: Architecture, p: Parallelism, dtype: Dtype, device: str) -> None:
    """Raise `UserError`, in one line, where megatron-core's engine cannot compute this model."""
    obstacle = _of_the_host(dtype, device) or _of_the_model(a, p)
    if obstacle:
        raise UserError(f"{KEY}: {obstacle}; engine.runtime=portable runs everywhere")


def _of_the_host(dtype: Dtype, device: str) -> str:
    if device == "cpu":
        return "needs an NVIDIA GPU; this runs on CPU"
    if dtype not in HALF:
        return f"needs bf16 or fp16; this runs in {dtype.value}"
    found = flash.version()
    if found is None:
        return "needs the package flash-attn, which is not installed"
    if found < LEAST_FLASH:
        needed, has = (".".join(map(str, v)) for v in (LEAST_FLASH, found))
        return f"needs flash-attn {needed} or newer; installed is {has}"
    return ""


def _of_the_model(a: Architecture, p: Parallelism) -> str:
    if p.world_size > 1:
        return f"runs in one process; parallelism asks for {p.world_size}"
    if a.sliding_window is not None and a.sliding_window < a.context_length:
        return f"knows no sliding window; the model has one of {a.sliding_window} tokens"
    if a.parallel_residual:
        return "knows no parallel residual, which the model has (GPT-NeoX)"
    return flash.unfit(a.kv_channels)
