"""Sizes of decode steps that are captured once and reused: a step is padded to the next size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIN_TOKENS = 256
"""Tokens of the narrowest block table that is worth a bucket of its own."""


@dataclass(frozen=True)
class Bucket:
    """A decode step of ``rows`` sequences that see at most ``pages`` blocks of the cache each."""

    rows: int
    pages: int


@dataclass(frozen=True)
class Buckets:
    """The sizes to capture: ``rows`` sequences of ``pages`` blocks each, both ascending, with ``rows * pages <= area``.

    A step that fits into none is computed without a graph.
    """

    rows: Sequence[int]
    pages: Sequence[int]
    area: int

    @classmethod
    def of(cls, sequences: int, context: int, block_size: int, num_blocks: int, full_width: bool) -> Buckets:
        """Return the buckets of ``sequences`` of at most ``context`` tokens over a cache of ``num_blocks``.

        With ``full_width`` every bucket has the widest block table: the kernel reads only real pages, so width costs
        nothing. Otherwise every page of a table is read, so there are several widths. No step then reads more than
        twice the cache.
        """
        most = -(-context // block_size)
        if full_width:
            return cls(powers(1, sequences), [most], sequences * most)
        return cls(powers(1, sequences), powers(min(most, max(1, MIN_TOKENS // block_size)), most), 2 * num_blocks)

    def fit(self, rows: int, pages: int) -> Bucket | None:
        """Return the smallest bucket that holds ``rows`` sequences of ``pages`` blocks; None if there is none."""
        row, page = bisect_left(self.rows, rows), bisect_left(self.pages, pages)
        if row == len(self.rows) or page == len(self.pages):
            return None
        found = Bucket(self.rows[row], self.pages[page])
        return found if found.rows * found.pages <= self.area else None

    def __iter__(self) -> Iterator[Bucket]:
        """Yield the largest first: the others reuse its memory."""
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
