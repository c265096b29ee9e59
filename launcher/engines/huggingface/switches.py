"""Which optimizations are active in the Hugging Face engine, decided before a model is loaded."""

from __future__ import annotations

from launcher.core import Json
from launcher.model import Dtype, Optimizations, Switch

MEGATRON_ONLY = "engine=huggingface does not offer it; engine=megatron does"


def resolve_dtype(asked: Dtype, stored: Dtype, device: str) -> Dtype:
    """Return the type to compute in: ``auto`` is fp32 on CPU, and that of the stored weights on GPU."""
    if asked is not Dtype.auto:
        return asked
    return Dtype.fp32 if device == "cpu" else stored


def resolve(o: Optimizations, dtype: Dtype, device: str) -> list[Switch]:
    """Say of every optimization whether it is active, and why not where it was asked for in vain."""
    flash = "needs an NVIDIA GPU; this runs on CPU" if device == "cpu" else ""
    if not flash and dtype is Dtype.fp32:
        flash = "needs bf16 or fp16; this runs in fp32"
    origin = "as asked" if o.dtype is not Dtype.auto else "the default on CPU" if device == "cpu" else "as stored"
    return [
        Switch("dtype", o.dtype is not Dtype.auto, True, f"{dtype.value}, {origin}"),
        _switch("cuda_graphs", o.cuda_graphs, MEGATRON_ONLY),
        _switch("flash_decode", o.flash_decode, MEGATRON_ONLY),
        _switch("flash_attention", o.flash_attention, flash),
        _switch("prefix_caching", o.prefix_caching, ""),
    ]


def as_json(switches: list[Switch]) -> dict[str, Json]:
    return {s.name: {"asked": s.asked, "active": s.active, "reason": s.reason} for s in switches}


def _switch(name: str, asked: bool, obstacle: str) -> Switch:
    if not asked:
        return Switch(name, False, False, "not asked for")
    return Switch(name, True, not obstacle, obstacle)
