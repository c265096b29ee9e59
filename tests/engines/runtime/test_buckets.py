"""The sizes of captured steps, and the size to which a step is padded."""

from __future__ import annotations

import pytest

from launcher.engines.runtime.buckets import Bucket, Buckets, powers


def test_sizes_double_and_end_with_the_largest() -> None:
    assert powers(1, 64) == [1, 2, 4, 8, 16, 32, 64]
    assert powers(1, 1) == [1]
    assert powers(16, 100) == [16, 32, 64, 100]


@pytest.mark.parametrize(
    ("rows", "pages", "expected"),
    [
        (1, 1, Bucket(1, 16)),
        (3, 16, Bucket(4, 16)),
        (24, 17, Bucket(24, 32)),
        (17, 63, Bucket(24, 64)),
        (25, 1, None),
        (1, 65, None),
    ],
)
def test_the_smallest_that_holds_a_step(rows: int, pages: int, expected: Bucket | None) -> None:
    buckets = Buckets.of(24, 1024, 16, 24 * 64 + 1, full_width=False)
    assert list(buckets.rows) == [1, 2, 4, 8, 16, 24]
    assert list(buckets.pages) == [16, 32, 64]
    assert buckets.fit(rows, pages) == expected


def test_no_step_reads_more_than_twice_the_cache() -> None:
    buckets = Buckets.of(64, 4096, 16, 513, full_width=False)
    assert max(b.rows * b.pages for b in buckets) <= 1026
    assert buckets.fit(64, 16) == Bucket(64, 16)
    assert buckets.fit(64, 17) is None
    assert buckets.fit(1, 256) == Bucket(1, 256)


def test_a_kernel_that_reads_only_real_pages_needs_one_width() -> None:
    buckets = Buckets.of(64, 4096, 256, 33, full_width=True)
    assert [b.pages for b in buckets] == [16] * 7
    assert buckets.fit(64, 16) == Bucket(64, 16)


def test_the_largest_is_prepared_first_and_each_once() -> None:
    prepared = list(Buckets.of(8, 512, 16, 10_000, full_width=False))
    assert prepared[0] == Bucket(8, 32)
    assert len(prepared) == len(set(prepared)) == 8
