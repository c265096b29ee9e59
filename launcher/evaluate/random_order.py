"""The seeded random order of an evaluation that may stop early: blocks over which each task's questions are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

BLOCKS = 256
"""A population is cut into at most so many blocks; at the end of each, one may look."""


def blocks(strata: Mapping[str, Sequence[str]], seed: int) -> list[list[str]]:
    """Return the members of all strata, each of which is named once, in blocks of random members.

    Each stratum gives each block its share, rounded down, and one more to randomly chosen blocks. So the next block is
    expected to have of each stratum what is left of it, divided by the blocks that are left. The order depends on the
    seed and the names alone.
    """
    count = min(BLOCKS, sum(map(len, strata.values())))
    found: list[list[str]] = [[] for _ in range(count)]
    for name, members in strata.items():
        shuffled = sorted(members, key=lambda member: _draw(seed, member))
        share, rest = divmod(len(shuffled), count)
        places = sorted(range(count), key=lambda place, name=name: _draw(seed, f"{name} block {place}"))  # type: ignore[misc]
        larger = set(places[:rest])
        start = 0
        for place, block in enumerate(found):
            end = start + share + (place in larger)
            block += shuffled[start:end]
            start = end
    return [sorted(block, key=lambda member: _draw(seed, member)) for block in found]


def _draw(seed: int, text: str) -> bytes:
    return blake2b(f"{seed}\0{text}".encode(errors="surrogatepass"), digest_size=16).digest()
