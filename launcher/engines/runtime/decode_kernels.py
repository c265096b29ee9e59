"""Which kernel computes decode steps over the paged cache: flash-attn's where it is installed, else one in Triton."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from launcher.core.console import one_line
from launcher.core.errors import UserError
from launcher.engines.runtime import flash

if TYPE_CHECKING:
    import torch

    from launcher.engines.runtime.paged import PagedKernel

MIN_COMPUTE_CAPABILITY = (8, 0)
"""The oldest GPUs that either kernel computes on: bf16 needs them."""
MAX_HEAD_DIM = flash.MAX_HEAD_DIM
"""The most channels of a head that either kernel takes."""
NO_KERNEL = "needs the package flash-attn, or triton, which torch for CUDA brings; neither is installed"
TOLERANCE = 0.02
"""How far a trial in bf16 may be from fp32; attention returns means of normal numbers."""


def installed() -> str:
    """Return the package of the kernel, empty without one."""
    if flash.installed():
        return "flash-attn"
    return "triton" if find_spec("triton") is not None else ""


def described() -> str:
    """Return what computes decode steps, in words."""
    return "flash-attn's kernel over the paged cache" if flash.installed() else "a Triton kernel over the paged cache"


def page_multiple() -> int:
    """Return what the tokens of a page must be a multiple of."""
    return flash.PAGE_MULTIPLE if flash.installed() else 1


def head_dim_obstacle(channels: int) -> str:
    """Return why the kernel cannot compute heads of ``channels``; empty if it can."""
    if flash.installed():
        return flash.head_dim_obstacle(channels)
    if channels > MAX_HEAD_DIM:
        return f"needs heads of at most {MAX_HEAD_DIM} channels; these have {channels}"
    return ""


def kernel(device: torch.device) -> PagedKernel:
    """Return the kernel; `UserError` where the GPU is too old, or the package does not work on it."""
    import torch

    found = torch.cuda.get_device_capability(device)
    if found < MIN_COMPUTE_CAPABILITY:
        needed, has = (".".join(map(str, c)) for c in (MIN_COMPUTE_CAPABILITY, found))
        raise UserError(f"optimizations.flash_decode=true: needs compute capability {needed}; {device} has {has}")
    return flash.kernel() if flash.installed() else _triton(device)


def _triton(device: torch.device) -> PagedKernel:
    """Return Triton's kernel after a trial: it compiles at its first use, which needs a C compiler for its start."""
    import torch

    try:
        from launcher.engines.runtime import paged_decode

        made = paged_decode.kernel(torch.cuda.get_device_properties(device).multi_processor_count)
        error = trial(made, device)
    except Exception as fault:  # what Triton and its compiler raise has no common type
        raise UserError(
            f"optimizations.flash_decode=true: the Triton kernel does not run on {device}: {one_line(str(fault))}; "
            "install a C compiler or flash-attn, or set optimizations.flash_decode=false"
        ) from fault
    if not error < TOLERANCE:
        raise UserError(
            f"optimizations.flash_decode=true: the Triton kernel is wrong by {error:.3g} on {device}; "
            "install flash-attn, or set optimizations.flash_decode=false"
        )
    return made


def trial(kernel: PagedKernel, device: torch.device) -> float:
    """Return by how much a kernel differs from plain attention, at most, on two sequences in bf16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    queries, cache = (torch.randn(shape, generator=generator) for shape in ((2, 4, 64), (6, 2, 2, 16, 64)))
    blocks, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]], dtype=torch.int32), torch.tensor([37, 20], dtype=torch.int32)
    half, pages = queries.to(device, torch.bfloat16), cache.to(device, torch.bfloat16)
    keys, values = (pages[:, :, side].transpose(1, 2) for side in (0, 1))
    found = kernel(half, keys, values, lengths.to(device), blocks.to(device), None, None).float().cpu()
    worst = 0.0
    for one, (length, row) in enumerate(zip(lengths.tolist(), blocks.tolist(), strict=True)):
        seen = cache[row].permute(2, 1, 0, 3, 4).flatten(2, 3)[:, :, :length].repeat_interleave(2, 1)
        wanted = torch.nn.functional.scaled_dot_product_attention(queries[one, :, None], *seen)[:, 0]
        worst = max(worst, float((found[one] - wanted).abs().max()))
    return worst
