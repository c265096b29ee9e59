"""Matrix products on a CPU by oneDNN where it is faster than the library that torch takes for fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_ROWS = 4
"""Products of fewer rows stay with torch's own choice: they wait for memory, and oneDNN copies the weight first."""

LEAST_WORK = 2**19
"""Products of fewer multiplications stay as well: a call of oneDNN costs some microseconds more."""

FAST = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch._C._has_mkldnn
"""Whether oneDNN is preferred: it uses AVX-512 on every CPU that has it, torch's MKL only on Intel's."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute what `torch.nn.functional.linear` does, without gradients."""
    rows = x.numel() // x.shape[-1]
    if not FAST or rows < LEAST_ROWS or rows * weight.numel() < LEAST_WORK or not _plain(x) or not _plain(weight):
        return F.linear(x, weight, bias)
    padding = _padded(rows) - rows
    flat = x.reshape(rows, -1)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        F.pad(flat, (0, 0, 0, padding)) if padding else flat, weight, bias, "none", [], ""
    )
    return out[:rows].view(*x.shape[:-1], -1)


def _plain(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


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
