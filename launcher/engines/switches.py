"""Which optimizations are active, decided before a model is loaded."""

from __future__ import annotations

from launcher.core import Json
from launcher.model import Dtype, Optimizations, Switch

NOT_OFFERED = "not available in this version"


def resolve_dtype(asked: Dtype, stored: Dtype, device: str) -> Dtype:
    """Return the type to compute in: ``auto`` is fp32 on CPU, and that of the stored weights on GPU."""
    if asked is not Dtype.auto:
        return asked
    return Dtype.fp32 if device == "cpu" else stored


def resolve(o: Optimizations, dtype: Dtype, device: str) -> list[Switch]:
    """Say of every optimization whether it is active, and why not where it was asked for in vain."""
    no_gpu = "needs an NVIDIA GPU; this runs on CPU" if device == "cpu" else ""
    no_half = "" if dtype in (Dtype.bf16, Dtype.fp16) else f"needs bf16 or fp16; this runs in {dtype.value}"
    return [
        Switch("dtype", o.dtype is not Dtype.auto, True, f"{dtype.value}, {_how(o.dtype, device)}"),
        _switch("cuda_graphs", o.cuda_graphs, NOT_OFFERED),
        _switch("flash_decode", o.flash_decode, NOT_OFFERED),
        _switch("flash_attention", o.flash_attention, no_gpu or no_half, "for prompts that are computed in one chunk"),
        _switch("prefix_caching", o.prefix_caching, ""),
    ]


def active(switches: list[Switch], name: str) -> bool:
    return next(s.active for s in switches if s.name == name)


def as_json(switches: list[Switch]) -> dict[str, Json]:
    return {s.name: {"asked": s.asked, "active": s.active, "reason": s.reason} for s in switches}


def _how(asked: Dtype, device: str) -> str:
    if asked is not Dtype.auto:
        return "as asked"
    return "the default on CPU" if device == "cpu" else "as the weights are stored"


def _switch(name: str, asked: bool, obstacle: str, extent: str = "") -> Switch:
    if not asked:
        return Switch(name, False, False, "not asked for")
    return Switch(name, True, not obstacle, obstacle or extent)
