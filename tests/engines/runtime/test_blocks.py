"""The block pool: who holds what, what is remembered, and what is forgotten first."""

from __future__ import annotations

import pytest

from launcher.engines.base import TokenLogprob
from launcher.engines.runtime.blocks import BlockPool, digest

A, B = digest(b"", [1, 2]), digest(digest(b"", [1, 2]), [3, 4])


def logprobs(top: int) -> list[TokenLogprob]:
    return [TokenLogprob(1, -1.0, ((1, -1.0),) * top)] * 2


def test_digest_depends_on_everything_before() -> None:
    assert digest(b"", [3, 4]) != B
    assert digest(A, [3, 4]) == B


def test_block_zero_is_never_given() -> None:
    pool = BlockPool(4)
    assert {pool.take() for _ in range(3)} == {1, 2, 3}
    with pytest.raises(LookupError):
        pool.take()


def test_released_content_is_found_again_until_its_place_is_needed() -> None:
    pool = BlockPool(3)
    first, second = pool.take(), pool.take()
    pool.remember(first, A, None)
    pool.remember(second, B, None)
    pool.release([first, second])
    assert pool.free == 2
    assert pool.find([A, B]) == [first, second]
    assert pool.take() == second, "the end of a sequence goes first"
    assert pool.find([A, B]) == [first]


def test_shared_blocks_stay_until_the_last_holder_lets_go() -> None:
    pool = BlockPool(2)
    block = pool.take()
    pool.remember(block, A, None)
    pool.share([block])
    pool.release([block])
    assert pool.free == 0
    pool.release([block])
    assert pool.free == 1


def test_logprobs_are_found_at_their_depth() -> None:
    pool = BlockPool(3)
    block = pool.take()
    pool.remember(block, A, logprobs(2))
    assert pool.find([A], 2) == [block]
    assert pool.find([A], 3) == []
    deeper = pool.take()
    pool.remember(deeper, A, logprobs(5))
    assert pool.find([A], 5) == [block], "what a second copy computed serves the first"
    assert len(pool.logprobs(A)[0].top) == 5
