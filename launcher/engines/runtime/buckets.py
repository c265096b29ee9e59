"""Sizes of decode steps that are prepared once and used again: a step is padded to the next one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST_TOKENS = 256
"""Tokens of the narrowest block table that is worth a bucket of its own."""


@dataclass(frozen=True)
class Bucket:
    """A decode step of ``rows`` sequences that see at most ``pages`` blocks of the cache each."""

    rows: int
    pages: int


@dataclass(frozen=True)
class Buckets:
    """The sizes to prepare: ``rows`` sequences and ``pages`` blocks each, in ascending order, of at most ``area`` both.

    A step that fits into none is computed as it is.
    """

    rows: Sequence[int]
    pages: Sequence[int]
    area: int

    @classmethod
    def of(cls, sequences: int, context: int, block_size: int, num_blocks: int, whole: bool) -> Buckets:
        """Return the buckets of ``sequences`` of at most ``context`` tokens over a cache of ``num_blocks``.

        ``whole`` says that the width of a block table costs nothing (a kernel reads only what is there). Otherwise
        every page of a table is read, so there are several widths, and no step reads more than twice the cache.
        """
        most = -(-context // block_size)
        if whole:
            return cls(powers(1, sequences), [most], sequences * most)
        return cls(powers(1, sequences), powers(min(most, max(1, LEAST_TOKENS // block_size)), most), 2 * num_blocks)

    def fit(self, rows: int, pages: int) -> Bucket | None:
        """Return the smallest bucket that holds so much, or None."""
        row, page = bisect_left(self.rows, rows), bisect_left(self.pages, pages)
        if row == len(self.rows) or page == len(self.pages):
            return None
        found = Bucket(self.rows[row], self.pages[page])
        return found if found.rows * found.pages <= self.area else None

    def __iter__(self) -> Iterator[Bucket]:
        """Yield the largest first: what it needs in memory then serves the others too."""
        for rows in reversed(self.rows):
            for pages in reversed(self.pages):
                if rows * pages <= self.area:
                    yield Bucket(rows, pages)


def powers(least: int, most: int) -> list[int]:
    """Return ``least``, twice that, and so on, and ``most`` as the last."""
    found = [least]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found
