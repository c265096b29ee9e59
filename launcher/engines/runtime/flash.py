"""The package flash-attn as the kernel of decode steps: it reads the paged cache in place."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from launcher.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from launcher.engines.runtime.paged import PagedKernel

PAGE_MULTIPLE = 256
"""The tokens of a page must be a multiple of this (flash-attn 2 checks it)."""

MAX_HEAD_DIM = 256
"""The most channels of a head that the kernel takes; they must be a multiple of 8."""


def installed() -> bool:
    return find_spec("flash_attn") is not None


def version() -> tuple[int, ...] | None:
    """Return the numbers of flash-attn's version, None if it is not installed."""
    try:
        return tuple(int(n) for n in re.findall(r"\d+", metadata.version("flash-attn"))[:3])
    except metadata.PackageNotFoundError:
        return None


def head_dim_obstacle(channels: int) -> str:
    """Return why the kernel cannot compute heads of ``channels``; empty if it can."""
    if channels % 8 or channels > MAX_HEAD_DIM:
        return f"needs heads of a multiple of 8 and at most {MAX_HEAD_DIM} channels; these have {channels}"
    return ""


def kernel() -> PagedKernel:
    """Return flash-attn's kernel; `UserError` where the package does not load."""
    try:
        import flash_attn  # noqa: F401
    except (ImportError, OSError) as error:  # built for another torch: a symbol is missing
        raise UserError(f"optimizations.flash_decode=true: the package flash-attn does not load: {error}") from error
    return _attend


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    blocks: Tensor,
    scale: float | None,
    window: int | None,
) -> Tensor:
    from flash_attn import flash_attn_with_kvcache

    out: Tensor = flash_attn_with_kvcache(
        queries[:, None],
        keys,
        values,
        cache_seqlens=lengths,
        block_table=blocks,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    return out[:, 0]
