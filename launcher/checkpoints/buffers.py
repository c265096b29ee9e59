"""Names of stored buffers that every model computes itself, so they cannot change an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

BUFFER = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$|masked_bias$|_extra_state$|(^|\.)mtp\."
)
"""Rotary frequencies, positions, the number that masks with, states of fp8, and layers that predict further tokens."""

MASK = re.compile(r"(^|\.)attn\.bias$|(^|\.)attention\.bias$")
"""The causal mask of GPT-2 and GPT-NeoX, which is named like a bias: told apart by its shape."""


class Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def without(stored: Mapping[str, Shaped]) -> Iterable[str]:
    """Return the names of the stored tensors that are no such buffers."""
    return [name for name, tensor in stored.items() if not BUFFER.search(name) and not _is_mask(name, tensor.shape)]


def _is_mask(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a mask of [1, 1, context, context]."""
    return bool(MASK.search(name)) and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
