"""The floating point types of `Dtype`: their sizes, and torch's names for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.settings.model import Dtype

if TYPE_CHECKING:
    import torch

BYTES = {Dtype.fp32: 4, Dtype.bf16: 2, Dtype.fp16: 2}

HALF = (Dtype.bf16, Dtype.fp16)
"""The types of two bytes, which kernels such as flash-attn's need."""


def torch_dtype(dtype: Dtype) -> torch.dtype:
    import torch

    return {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16, Dtype.fp16: torch.float16}[dtype]
