"""Attention of one step over the paged cache: where each token's keys and values go, and what each token sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from launcher.engines.step import Chunk, StepPlan

Ints = NDArray[np.int64]

CALL_COST = 100_000
"""What one more attention call costs, in cached numbers that padding could read instead (measured on a CPU)."""


@dataclass(frozen=True, slots=True)
class Rope:
    """The cosines and (signed) sines of a model's positions, [context, rotated channels].

    ``sin`` carries the sign of the half rotation, so that rotating is ``x * cos + swapped(x) * sin``.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool

    @classmethod
    def of(cls, angles: Tensor, interleaved: bool, dtype: torch.dtype) -> Rope:
        """Tabulate ``angles`` [context, rotated channels] as megatron-core's RotaryEmbedding lays them out."""
        sin = angles.sin()
        if interleaved:
            sin[:, 0::2] *= -1
        else:
            sin[:, : angles.shape[1] // 2] *= -1
        return cls(angles.cos().to(dtype), sin.to(dtype), interleaved)


@dataclass(frozen=True, slots=True)
class Group:
    """Chunks that attend in one call: rows ``[begin, end)`` of the step, as ``count`` sequences of ``width`` queries.

    ``take`` gathers the queries into [count * width] (None when they already lie so), ``put`` picks the real rows out
    of the padded result. ``blocks`` [count * blocks per sequence] gathers keys and values, and ``mask``
    [count, 1, queries per group * width, keys] is added to the scores. A chunk that sees only itself has neither.
    """

    begin: int
    end: int
    count: int
    width: int
    blocks: Tensor | None = None
    mask: Tensor | None = None
    take: Tensor | None = None
    put: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A `StepPlan` as tensors; made once, used by every layer.

    ``tokens``, ``positions`` are [1, T]; ``slots`` [T] is where each token's key and value go in the cache, counted in
    tokens; ``rows`` picks the tokens whose logits are needed. ``cos``, ``sin`` are [T, 1, 1, rotated], or None without
    rotary embedding.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    groups: Sequence[Group]
    cos: Tensor | None
    sin: Tensor | None
    interleaved: bool
    scale: float | None
    block_size: int

    def attend(self, mixed: Tensor, cache: Tensor) -> Tensor:
        """Rotate, store and attend.

        ``mixed`` [T, groups, queries + 2, channels] holds each group's queries, its key and its value, and is
        overwritten. ``cache`` is [slots, groups, 2, channels]. Returns [T, heads * channels].
        """
        if self.cos is not None and self.sin is not None:
            _rotate(mixed[:, :, :-1, : self.cos.shape[-1]], self.cos, self.sin, self.interleaved)
        cache.index_copy_(0, self.slots, mixed[:, :, -2:])
        parts = [self._group(group, mixed, cache) for group in self.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _group(self, group: Group, mixed: Tensor, cache: Tensor) -> Tensor:
        rows = mixed[group.begin : group.end]
        if group.blocks is None:
            return self._whole(rows)
        queries = rows[:, :, :-2] if group.take is None else rows[:, :, :-2].index_select(0, group.take)
        groups, per_group, channels = queries.shape[1:]
        # Queries that share a key head lie along the query axis, so that no key is repeated.
        q = queries.reshape(group.count, group.width, groups, per_group, channels)
        q = q.permute(0, 2, 3, 1, 4).reshape(group.count, groups, per_group * group.width, channels)
        pages = cache.view(-1, self.block_size * groups * 2 * channels).index_select(0, group.blocks)
        keys, values = pages.view(group.count, -1, groups, 2, channels).transpose(1, 2).unbind(3)
        out = F.scaled_dot_product_attention(q, keys, values, group.mask, scale=self.scale)
        out = out.view(group.count, groups, per_group, group.width, channels).permute(0, 3, 1, 2, 4)
        out = out.reshape(group.count * group.width, -1)
        return out if group.put is None else out.index_select(0, group.put)

    def _whole(self, rows: Tensor) -> Tensor:
        """Attend of a sequence's first tokens among themselves: no cache to read, no mask to build."""
        q = rows[:, :, :-2].flatten(1, 2).transpose(0, 1)[None]
        keys, values = rows[:, :, -2:].permute(2, 1, 0, 3)[:, None]
        out = F.scaled_dot_product_attention(
            q, keys, values, is_causal=True, scale=self.scale, enable_gqa=q.shape[1] != keys.shape[1]
        )
        return out[0].transpose(0, 1).flatten(1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
    swapped = x.view(*x.shape[:-1], -1, 2).flip(-1).flatten(-2) if interleaved else x.roll(x.shape[-1] // 2, -1)
    x.copy_(torch.addcmul(x * cos, swapped, sin))


@dataclass(frozen=True, slots=True)
class Layout:
    """What turns plans into steps: the facts of one model and its cache.

    ``queries`` is the number of query heads per key head. ``window`` bounds how far back a token sees. ``worth`` is how
    much padding, in queries times keys, is cheaper than one more call.
    """

    block_size: int
    queries: int
    worth: int
    device: torch.device
    dtype: torch.dtype
    rope: Rope | None
    window: int | None = None
    scale: float | None = None

    def step(self, plan: StepPlan) -> Step:
        """Lay out a plan. Its chunks should be sorted by length, so that few groups and little padding result."""
        chunks = plan.chunks
        starts = np.fromiter((c.start for c in chunks), np.int64, len(chunks))
        widths = np.fromiter((len(c.tokens) for c in chunks), np.int64, len(chunks))
        ends = np.cumsum(widths)
        positions = np.arange(ends[-1]) + np.repeat(starts - (ends - widths), widths)
        tokens = np.fromiter((t for c in chunks for t in c.tokens), np.int64, int(ends[-1]))
        at = self._tensor(positions)
        return Step(
            tokens=self._tensor(tokens)[None],
            positions=at[None],
            slots=self._tensor(self._slots(chunks, positions)),
            rows=self._tensor(np.asarray(plan.rows, np.int64)),
            groups=list(self._groups(chunks)),
            cos=None if self.rope is None else self.rope.cos[at][:, None, None],
            sin=None if self.rope is None else self.rope.sin[at][:, None, None],
            interleaved=self.rope is not None and self.rope.interleaved,
            scale=self.scale,
            block_size=self.block_size,
        )

    def _slots(self, chunks: Sequence[Chunk], positions: Ints) -> Ints:
        """Return the cache slot of every token; block 0 takes what is stored already."""
        size = self.block_size
        at = ((c, p) for c in chunks for p in range(c.start, c.start + len(c.tokens)))
        blocks = (c.blocks[p // size] if p >= c.write else 0 for c, p in at)
        return np.fromiter(blocks, np.int64, len(positions)) * size + positions % size

    def _groups(self, chunks: Sequence[Chunk]) -> Iterator[Group]:
        begin = 0
        for members in _alike(chunks, self.worth):
            end = begin + sum(len(c.tokens) for c in members)
            yield self._group(members, begin, end)
            begin = end

    def _group(self, members: Sequence[Chunk], begin: int, end: int) -> Group:
        count, width = len(members), max(len(c.tokens) for c in members)
        if count == 1 and members[0].start == 0 and (self.window is None or width <= self.window):
            return Group(begin, end, count, width)
        take, put = self._padding(members, width) if end - begin < count * width else (None, None)
        blocks = self._tensor(self._table(members).ravel())
        return Group(begin, end, count, width, blocks, self._mask(members, width), take, put)

    def _table(self, members: Sequence[Chunk]) -> Ints:
        """Return the blocks of each sequence, [count, most], padded with block 0 (which the mask hides)."""
        sizes = [-(-(c.start + len(c.tokens)) // self.block_size) for c in members]
        table = np.zeros((len(members), max(sizes)), np.int64)
        for row, (chunk, size) in enumerate(zip(members, sizes, strict=True)):
            table[row, :size] = chunk.blocks[:size]
        return table

    def _mask(self, members: Sequence[Chunk], width: int) -> Tensor:
        """Return what to add to the scores, [count, 1, queries * width, keys]: 0 where a token sees, else -inf."""
        keys = max(-(-(c.start + len(c.tokens)) // self.block_size) for c in members) * self.block_size
        starts = np.fromiter((c.start for c in members), np.int64, len(members))
        # Padding queries see what the sequence's first token sees: never an empty row, which would be NaN.
        offsets = np.arange(width)[None] * (np.arange(width)[None] < np.array([[len(c.tokens)] for c in members]))
        last = (starts[:, None] + offsets)[:, :, None]
        seen = np.arange(keys) <= last
        if self.window is not None:
            seen &= np.arange(keys) > last - self.window
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(torch.from_numpy(~seen), -torch.inf)
        return mask.repeat(1, self.queries, 1)[:, None].to(self.device)

    def _padding(self, members: Sequence[Chunk], width: int) -> tuple[Tensor, Tensor]:
        lengths = np.array([len(c.tokens) for c in members])
        inside = np.arange(width) < lengths[:, None]
        first = (np.cumsum(lengths) - lengths)[:, None]
        take = np.where(inside, first + np.arange(width), first)
        return self._tensor(take.ravel()), self._tensor(np.flatnonzero(inside))

    def _tensor(self, array: Ints) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _alike(chunks: Sequence[Chunk], worth: int) -> Iterator[list[Chunk]]:
    """Split chunks into runs that are padded to one another, as long as that wastes no more than one call is worth.

    The work of a chunk is its keys times its queries, and its keys once more: they are gathered first.
    """
    members: list[Chunk] = []
    real = width = keys = 0
    for chunk in chunks:
        own_width = len(chunk.tokens)
        own_keys = chunk.start + own_width
        w, k = max(width, own_width), max(keys, own_keys)
        real += own_keys * (own_width + 1)
        if members and (len(members) + 1) * k * (w + 1) - real > worth:
            yield members
            members, real, w, k = [], own_keys * (own_width + 1), own_width, own_keys
        members.append(chunk)
        width, keys = w, k
    yield members
