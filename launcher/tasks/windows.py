"""Cuts the tokens of a text into windows that a model's context holds, each token scored in exactly one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Window:
    """A prompt: its first ``context`` tokens are only seen, the others are tokens ``start`` to ``end`` of the text."""

    tokens: tuple[int, ...]
    context: int
    start: int
    end: int


def windows(tokens: Sequence[int], prefix: int, most: int, stride: int) -> Iterator[Window]:
    """Yield the windows of a text, whose first token follows the token ``prefix``.

    A prompt has at most ``most`` tokens. The first window scores as many tokens as fit, each later one the next
    ``stride``, with the tokens before them as context. ``stride`` = ``most`` - 1 gives the windows of
    lm-evaluation-harness, which scores all but the first token of a prompt.
    """
    end = min(len(tokens), most - 1)
    if end:
        yield Window((prefix, *tokens[:end]), 1, 0, end)
    while end < len(tokens):
        start, end = end, min(len(tokens), end + stride)
        first = max(0, end - most)
        yield Window(tuple(tokens[first:end]), start - first, start, end)


def shares(total: int, ends: Sequence[int]) -> list[int]:
    """Return whole parts of ``total`` in proportion to the lengths of pieces that end at ``ends``; their sum is it."""
    marks = [0, *(total * end // ends[-1] for end in ends)]
    return [after - before for before, after in pairwise(marks)]
