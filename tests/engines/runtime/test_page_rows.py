"""Single tokens attend over pages in place as torch's attention does over the same keys and values side by side."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.engines.runtime.paged import MetadataBuilder
from launcher.engines.runtime.step import Chunk, StepPlan

BLOCK, BLOCKS = 4, 64


def builder(groups: int, queries: int, window: int | None, scale: float | None) -> MetadataBuilder:
    return MetadataBuilder(
        num_blocks=BLOCKS,
        block_size=BLOCK,
        groups=groups,
        queries=queries,
        padding_budget=20,
        device=torch.device("cpu"),
        dtype=torch.float32,
        rope=None,
        window=window,
        scale=scale,
    )


def expected(qkv: Tensor, cache: Tensor, chunk: Chunk, window: int | None, scale: float | None) -> Tensor:
    """Attend with the last token of one sequence, whose keys and values are copied out of the cache."""
    keys, values = cache[list(chunk.blocks)].permute(2, 1, 0, 3, 4).flatten(2, 3)[:, :, : chunk.start + 1]
    first = 0 if window is None else max(0, chunk.start + 1 - window)
    queries = qkv[:, :-2]
    return F.scaled_dot_product_attention(queries, keys[:, first:], values[:, first:], scale=scale).flatten()


@pytest.mark.parametrize(("groups", "queries", "channels"), [(1, 1, 8), (2, 3, 16), (3, 3, 64), (4, 1, 24)])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_attention_over_each_sequence(
    groups: int, queries: int, channels: int, window: int | None, scale: float | None
) -> None:
    rng = random.Random(groups)
    torch.manual_seed(groups)
    starts = sorted(rng.randrange(5 * BLOCK) for _ in range(7))
    free = rng.sample(range(1, BLOCKS), BLOCKS - 1)
    chunks = [Chunk([1], at, at, [free.pop() for _ in range(at // BLOCK + 2)]) for at in starts]
    metadata = builder(groups, queries, window, scale).build(StepPlan(chunks, range(len(chunks))))
    assert 1 < len(metadata.chunk_groups) < len(chunks), "some are padded together, not all"
    cache = torch.randn(BLOCKS, groups, 2, BLOCK, channels)
    qkv = torch.randn(len(chunks), groups, queries + 2, channels)
    found = metadata.attend(qkv.clone(), cache)
    for row, chunk in enumerate(chunks):
        assert torch.equal(cache[chunk.blocks[chunk.start // BLOCK], :, 0, chunk.start % BLOCK], qkv[row, :, -2])
        torch.testing.assert_close(found[row], expected(qkv[row], cache, chunk, window, scale), rtol=1e-5, atol=1e-5)
