"""Matrix products on a CPU by oneDNN where it is faster than the library that torch takes for fp32."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.engines.runtime.sizing import LEAST_PACKED

LEAST_ROWS = 4
"""Products of fewer rows with a plain weight stay with torch: oneDNN copies the weight first."""

LEAST_WORK = 2**19
"""Products of fewer multiplications stay as well: a call of oneDNN costs some microseconds more."""

PACKED_ROWS = 16
"""The number of rows for which a weight is packed; the same order of its numbers suits every other number."""

FAST = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch._C._has_mkldnn
"""Whether oneDNN multiplies by packed weights: for some ten rows it is faster than torch's MKL on every such CPU."""


FIRST = 4096
"""The first CPU of ``/proc/cpuinfo`` has its maker within so many characters."""


def _is_intel(described: str) -> bool:
    """Tell from the text of ``/proc/cpuinfo`` whether Intel made the CPU."""
    vendors = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("vendor_id")]
    return vendors[:1] == ["GenuineIntel"]


def _cpuinfo() -> str:
    """Return what the system says of the first CPU; the whole takes long where there are many."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return file.read(FIRST)
    except OSError:
        return ""


PLAIN = FAST and not _is_intel(_cpuinfo())
"""Whether oneDNN multiplies by plain weights, too, which it copies first. MKL uses AVX-512 on Intel's CPUs alone."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute what `torch.nn.functional.linear` does, without gradients; ``weight`` may be `packed`."""
    rows = x.numel() // x.shape[-1]
    if not _by_onednn(x, weight, rows):
        return F.linear(x, weight, bias)
    padding = _padded(rows) - rows
    flat = x.reshape(rows, -1)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        F.pad(flat, (0, 0, 0, padding)) if padding else flat, weight, bias, "none", [], ""
    )
    return out[:rows].view(*x.shape[:-1], -1)


def packed(weight: Tensor) -> Tensor:
    """Return a weight in the order in which oneDNN reads it, if that is faster here; its `to_dense` is the weight."""
    if not FAST or weight.device.type != "cpu" or weight.numel() < LEAST_PACKED or not _packs(weight.dtype):
        return weight
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
    return made


def _packs(dtype: torch.dtype) -> bool:
    bf16 = dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype is torch.float32 or bool(bf16)


def _by_onednn(x: Tensor, weight: Tensor, rows: int) -> bool:
    if weight.is_mkldnn:
        return x.dtype is weight.dtype and rows > 0
    enough = rows >= LEAST_ROWS and rows * weight.numel() >= LEAST_WORK
    return PLAIN and enough and x.dtype is weight.dtype is torch.float32 and x.device.type == "cpu"


def _padded(rows: int) -> int:
    """Round up, so that there are few sizes: oneDNN makes code for each, which takes a millisecond."""
    if rows <= 8:
        return rows
    step = 4 if rows <= 64 else 32
    return -(-rows // step) * step


class Linear(nn.Linear):
    """A linear layer of transformers that computes by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def replace_linears(model: nn.Module) -> None:
    """Let the linear layers of a model compute by `linear`; their weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
