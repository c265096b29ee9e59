"""The block pool: references, the prefix cache, and the order of eviction."""

from __future__ import annotations

import pytest

from launcher.engines.base import TokenLogprob
from launcher.engines.runtime.blocks import BlockPool, hash_block

A, B = hash_block(b"", [1, 2]), hash_block(hash_block(b"", [1, 2]), [3, 4])


def logprobs(top: int) -> list[TokenLogprob]:
    return [TokenLogprob(1, -1.0, ((1, -1.0),) * top)] * 2


def test_a_block_hash_depends_on_all_tokens_before() -> None:
    assert hash_block(b"", [3, 4]) != B
    assert hash_block(A, [3, 4]) == B


def test_block_zero_is_never_allocated() -> None:
    pool = BlockPool(4)
    assert {pool.allocate() for _ in range(3)} == {1, 2, 3}
    with pytest.raises(LookupError):
        pool.allocate()


def test_freed_blocks_match_until_they_are_evicted() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(), pool.allocate()
    pool.cache_block(first, A, None)
    pool.cache_block(second, B, None)
    pool.free([first, second])
    assert pool.num_free == 2
    assert pool.match_prefix([A, B]) == [first, second]
    assert pool.allocate() == second, "the end of a sequence goes first"
    assert pool.match_prefix([A, B]) == [first]


def test_shared_blocks_stay_until_their_last_reference_is_freed() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.cache_block(block, A, None)
    pool.incref([block])
    pool.free([block])
    assert pool.num_free == 0
    pool.free([block])
    assert pool.num_free == 1


def test_logprobs_are_found_at_their_depth() -> None:
    pool = BlockPool(3)
    block = pool.allocate()
    pool.cache_block(block, A, logprobs(2))
    assert pool.match_prefix([A], 2) == [block]
    assert pool.match_prefix([A], 3) == []
    deeper = pool.allocate()
    pool.cache_block(deeper, A, logprobs(5))
    assert pool.match_prefix([A], 5) == [block], "what a second copy computed serves the first"
    assert len(pool.logprobs(A)[0].top) == 5
