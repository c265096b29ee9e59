"""Weights of few bits in 32-bit words: a number less its group's zero point, times its group's scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WORD = 32
AT_ONCE = 2**22
"""Numbers that are unpacked at once, so that what is in between takes less memory than the weight itself."""


def words_of(count: int, bits: int) -> int:
    """Return how many 32-bit words hold ``count`` numbers without gaps."""
    return -(-count * bits // WORD)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` numbers of every row of words, the lowest bits first, as int32."""
    import torch

    places = torch.arange(count) * bits
    first, shift = places // WORD, places % WORD
    low = (words[:, first] >> shift) & (2 ** (WORD - shift).clamp(max=bits) - 1)
    missing = (bits - (WORD - shift)).clamp(min=0)  # bits that are in the next word
    if not bool(missing.any()):
        return low.to(torch.int32)
    high = words[:, (first + 1).clamp(max=words.shape[1] - 1)] & (2**missing - 1)
    return (low | high << (bits - missing)).to(torch.int32)


Numbers = Callable[[int, int], "Tensor"]
"""Returns the unsigned numbers of all rows in columns from the first, a multiple of 32, up to the second."""


def steps(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of columns, which begin at multiples of 32."""
    step = max(WORD, AT_ONCE // rows // WORD * WORD)
    for start in range(0, columns, step):
        yield start, min(columns, start + step)


def dequantized(numbers: Numbers, zeros: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """Return the weight [rows, columns] in fp32.

    ``zeros`` and ``scales`` are [rows, number of groups], ``groups`` has the group of every column.
    """
    import torch

    made = torch.empty(scales.shape[0], groups.shape[0])
    for start, end in steps(*made.shape):
        own = groups[start:end]
        made[:, start:end] = (numbers(start, end) - zeros[:, own]) * scales[:, own].float()
    return made
