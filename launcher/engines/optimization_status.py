"""Which optimizations are active, decided before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.engines.runtime import decode_kernels
from launcher.engines.runtime.dtypes import HALF
from launcher.settings.model import Dtype, Optimizations, OptimizationStatus

INVARIANT_EXTENT = "one block of one sequence at a time, always of the same shape"
REPLACED_BY_INVARIANT = "optimizations.batch_invariant computes one block of one sequence at a time instead"

NO_QUANTIZED_CACHE = "not offered: megatron-core 0.16.1 keeps keys and values in the type of the weights"


def resolve_dtype(asked: Dtype, stored: Dtype, device: str) -> Dtype:
    """Return the compute type: ``auto`` is fp32 on CPU, and that of the stored weights on GPU."""
    if asked is not Dtype.auto:
        return asked
    return Dtype.fp32 if device == "cpu" else stored


def resolve(o: Optimizations, dtype: Dtype, device: str, obstacles: Mapping[str, str]) -> list[OptimizationStatus]:
    """Return the status of every optimization: active or not, with the reason.

    ``obstacles`` are the engine's and the model's reasons, by name. Raises `UserError` for two that exclude each other.
    """
    _refuse_contradictions(o)
    no_gpu = "needs an NVIDIA GPU; this runs on CPU" if device == "cpu" else ""
    no_half = "" if dtype in HALF else f"needs bf16 or fp16; this runs in {dtype.value}"
    no_package = "" if decode_kernels.installed() else decode_kernels.NO_KERNEL
    invariant = _status("batch_invariant", o.batch_invariant, obstacles.get("batch_invariant", ""), INVARIANT_EXTENT)
    invariant_reason = REPLACED_BY_INVARIANT if invariant.active else ""
    decode = obstacles.get("flash_decode") or invariant_reason or no_gpu or no_half or no_package
    graphs = obstacles.get("cuda_graphs") or invariant_reason or no_gpu
    return [
        OptimizationStatus("dtype", o.dtype is not Dtype.auto, True, f"{dtype.value}, {_how(o.dtype, device)}"),
        _status("cuda_graphs", o.cuda_graphs, graphs, "for decode steps"),
        _status("flash_decode", o.flash_decode, decode, decode_kernels.described()),
        _status("flash_attention", o.flash_attention, no_gpu or no_half, "for prompts that are computed in one chunk"),
        _status("prefix_caching", o.prefix_caching, obstacles.get("prefix_caching", "")),
        invariant,
        OptimizationStatus("quantised_kv", False, False, NO_QUANTIZED_CACHE),
    ]


def _refuse_contradictions(o: Optimizations) -> None:
    for name in ("flash_decode", "flash_attention"):
        if getattr(o, name) and o.dtype is Dtype.fp32:
            raise UserError(f"optimizations.{name}=true: needs optimizations.dtype=bf16, fp16 or auto; got fp32")


def is_active(statuses: list[OptimizationStatus], name: str) -> bool:
    return next(s.active for s in statuses if s.name == name)


def as_json(statuses: list[OptimizationStatus]) -> dict[str, Json]:
    return {s.name: {"asked": s.asked, "active": s.active, "reason": s.reason} for s in statuses}


def _how(asked: Dtype, device: str) -> str:
    if asked is not Dtype.auto:
        return "as asked"
    return "the default on CPU" if device == "cpu" else "as the weights are stored"


def _status(name: str, asked: bool, obstacle: str, extent: str = "") -> OptimizationStatus:
    if not asked:
        return OptimizationStatus(name, False, False, "not asked for")
    return OptimizationStatus(name, True, not obstacle, obstacle or extent)
