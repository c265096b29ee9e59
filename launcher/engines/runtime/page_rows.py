"""Attention of single tokens on a CPU: keys and values are read where they lie in the pages, by their row numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# torch says once that matrices of this kind may change; the tests hold what is used of them.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)


@dataclass(frozen=True, slots=True)
class PageRows:
    """Where the keys and values of some sequences lie, as rows of ``channels`` numbers of the cache.

    Every query head of every sequence has ``keys`` rows. ``pattern`` [sequences * heads, rows of the cache] is a sparse
    matrix of zeros with an entry for each of its keys. ``values`` are the rows of the values in the same order, and
    ``offsets`` tells where each head begins. ``mask`` [sequences, 1, keys] is added to the scores, if they differ in
    length.
    """

    pattern: Tensor
    values: Tensor
    offsets: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, keys: Tensor, block_size: int, cache_rows: int, mask: Tensor | None) -> PageRows:
        """Arrange the rows of ``keys`` [sequences, heads, keys]; a value lies one block after its key."""
        sequences, heads, length = keys.shape
        ends = torch.arange(0, sequences * heads * length + 1, length)
        flat = keys.flatten()
        zeros = torch.zeros(1).expand(len(flat))
        size = (sequences * heads, cache_rows)
        pattern = torch.sparse_csr_tensor(ends, flat, zeros, size, check_invariants=False)
        return cls(pattern, flat + block_size, ends[:-1], mask)

    def attend(self, queries: Tensor, cache: Tensor, scale: float | None) -> Tensor:
        """Map [sequences, groups, queries per group, channels] to [sequences, heads * channels]."""
        sequences, channels = len(queries), queries.shape[-1]
        rows, scale = cache.view(-1, channels), channels**-0.5 if scale is None else scale
        scores = torch.sparse.sampled_addmm(
            self.pattern, queries.reshape(-1, channels), rows.t(), beta=0.0, alpha=scale
        ).values()
        scores = scores.view(sequences, -1, len(scores) * channels // queries.numel())
        weights = (scores if self.mask is None else scores.add_(self.mask)).softmax(-1)
        out = F.embedding_bag(self.values, rows, self.offsets, mode="sum", per_sample_weights=weights.flatten())
        return out.view(sequences, -1)


def supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether torch has the sparse product that this takes."""
    return device.type == "cpu" and dtype is torch.float32
