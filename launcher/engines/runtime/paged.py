"""Attention of one step over the paged cache: where each token's keys and values go, and what each token sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from launcher.engines.runtime.step import Chunk, StepPlan

Ints = NDArray[np.int64]

CALL_COST = 100_000
"""What one more attention call costs, in cached numbers that padding could read instead (measured on a CPU)."""

MINUS_INFINITY, ZERO = np.float32(-np.inf), np.float32(0)

PagedKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float | None, int | None], Tensor]
"""Attends where the keys and values lie: one query per sequence, [sequences, heads, channels], over the pages of keys
and of values [blocks, block size, groups, channels]; then how many tokens each sequence sees [sequences] and its blocks
[sequences, pages], both int32; the scale (None: by the channels) and the window. Returns the shape of the queries."""


def allow_flash(allowed: bool, device: torch.device) -> None:
    """Let torch take its flash kernel on a GPU, or not; elsewhere there is none to choose."""
    if device.type == "cuda":
        torch.backends.cuda.enable_flash_sdp(allowed)


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
class ChunkGroup:
    """Chunks that attend in one call: rows ``[begin, end)`` of the step, as ``count`` sequences of ``width`` queries.

    ``take`` gathers the queries into [count * width] (None when they already lie so), ``put`` picks the real rows out
    of the padded result. ``strips`` [count * groups * 2 * blocks per sequence] gathers keys and values, and ``mask``
    [count, 1, queries per group * width (or 1), keys] is added to the scores. A chunk that sees only itself has
    neither. With ``lengths`` [count] the step's kernel reads the cache itself, by ``blocks`` [count, blocks per
    sequence].
    """

    begin: int
    end: int
    count: int
    width: int
    strips: Tensor | None = None
    mask: Tensor | None = None
    take: Tensor | None = None
    put: Tensor | None = None
    blocks: Tensor | None = None
    lengths: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """A `StepPlan` as tensors; made once, used by every layer.

    ``tokens``, ``positions`` are [1, T]; ``slots`` [T * groups * 2] is where each token's keys and values go in the
    cache, counted in keys; ``rows`` picks the tokens whose logits are needed. ``cos``, ``sin`` are [T, 1, 1, rotated],
    or None without rotary embedding.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    groups: Sequence[ChunkGroup]
    cos: Tensor | None
    sin: Tensor | None
    interleaved: bool
    scale: float | None
    block_size: int
    window: int | None = None
    kernel: PagedKernel | None = None

    def attend(self, mixed: Tensor, cache: Tensor) -> Tensor:
        """Rotate, store and attend.

        ``mixed`` [T, groups, queries + 2, channels] holds each group's queries, its key and its value, and is
        overwritten. ``cache`` is [blocks, groups, key and value, block size, channels]: what one head reads of a block
        lies side by side, which is twice as fast on a CPU. Returns [T, heads * channels].
        """
        if self.cos is not None and self.sin is not None:
            _rotate(mixed[:, :, :-1, : self.cos.shape[-1]], self.cos, self.sin, self.interleaved)
        channels = mixed.shape[-1]
        cache.view(-1, channels).index_copy_(0, self.slots, mixed[:, :, -2:].reshape(-1, channels))
        parts = [self._group(group, mixed, cache) for group in self.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _group(self, group: ChunkGroup, mixed: Tensor, cache: Tensor) -> Tensor:
        rows = mixed[group.begin : group.end]
        if group.lengths is not None and group.blocks is not None:
            return self._in_place(rows, cache, group.lengths, group.blocks)
        if group.strips is None:
            return self._whole(rows)
        queries = rows[:, :, :-2] if group.take is None else rows[:, :, :-2].index_select(0, group.take)
        groups, per_group, channels = queries.shape[1:]
        # Queries that share a key head lie along the query axis, so that no key is repeated.
        q = queries.reshape(group.count, group.width, groups, per_group, channels)
        q = q.permute(0, 2, 3, 1, 4).reshape(group.count, groups, per_group * group.width, channels)
        strips = cache.view(-1, self.block_size * channels).index_select(0, group.strips)
        keys, values = strips.view(group.count, groups, 2, -1, channels).unbind(2)
        out = F.scaled_dot_product_attention(q, keys, values, group.mask, scale=self.scale)
        out = out.view(group.count, groups, per_group, group.width, channels).permute(0, 3, 1, 2, 4)
        out = out.reshape(group.count * group.width, -1)
        return out if group.put is None else out.index_select(0, group.put)

    def _in_place(self, rows: Tensor, cache: Tensor, lengths: Tensor, blocks: Tensor) -> Tensor:
        """Attend of one token per sequence, without gathering what it sees."""
        assert self.kernel is not None
        keys, values = cache.permute(0, 3, 1, 2, 4).unbind(3)
        out = self.kernel(rows[:, :, :-2].flatten(1, 2), keys, values, lengths, blocks, self.scale, self.window)
        return out.flatten(1)

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

    ``groups`` is the number of key heads, ``queries`` that of query heads per key head. ``window`` bounds how far back
    a token sees. ``worth`` is how much padding, in queries times keys, is cheaper than one more call. ``kernel``
    computes all chunks of one token, if there is one.
    """

    block_size: int
    groups: int
    queries: int
    worth: int
    device: torch.device
    dtype: torch.dtype
    rope: Rope | None
    window: int | None = None
    scale: float | None = None
    kernel: PagedKernel | None = None

    def step(self, plan: StepPlan) -> AttentionMetadata:
        """Lay out a plan. Its chunks should be sorted by length, so that few groups and little padding result."""
        spans = Spans.of(plan.chunks)
        owners = np.repeat(np.arange(len(plan.chunks)), spans.widths)
        positions = np.arange(len(owners)) + (spans.starts - spans.offsets)[owners]
        blocks = table(plan.chunks)
        # Block 0 takes what is stored already.
        into = blocks[owners, positions // self.block_size] * (positions >= spans.writes[owners])
        tokens = np.fromiter(chain.from_iterable(c.tokens for c in plan.chunks), np.int64, len(owners))
        return self._step(
            self._tensor(tokens),
            self._tensor(positions),
            self._tensor(into * self.block_size + positions % self.block_size),
            self._tensor(np.asarray(plan.rows, np.int64)),
            self._groups(spans, blocks),
        )

    def decoding(self, tokens: Tensor, positions: Tensor, slots: Tensor, blocks: Tensor) -> AttentionMetadata:
        """Lay out one token of each of several sequences from what is on the device already, without the host.

        ``tokens``, ``positions`` and ``slots`` are [sequences], ``blocks`` is [sequences, pages]; all are int64. Only
        their shapes matter for what is computed, so that it can be recorded once and repeated.
        """
        count, pages = blocks.shape
        if self.kernel is not None:
            group = ChunkGroup(0, count, count, 1, blocks=blocks.int(), lengths=(positions + 1).int())
        else:
            at = torch.arange(pages * self.block_size, device=self.device)
            hidden = at > positions[:, None]
            if self.window is not None:
                hidden |= at <= positions[:, None] - self.window
            mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, -torch.inf)
            group = ChunkGroup(0, count, count, 1, self._strips(blocks), mask[:, None, None])
        return self._step(tokens, positions, slots, torch.arange(count, device=self.device), [group])

    def _step(
        self, tokens: Tensor, at: Tensor, slots: Tensor, rows: Tensor, groups: Sequence[ChunkGroup]
    ) -> AttentionMetadata:
        return AttentionMetadata(
            tokens=tokens[None],
            positions=at[None],
            slots=self._places(slots),
            rows=rows,
            groups=groups,
            cos=None if self.rope is None else self.rope.cos.index_select(0, at)[:, None, None],
            sin=None if self.rope is None else self.rope.sin.index_select(0, at)[:, None, None],
            interleaved=self.rope is not None and self.rope.interleaved,
            scale=self.scale,
            block_size=self.block_size,
            window=self.window,
            kernel=self.kernel,
        )

    def _groups(self, spans: Spans, blocks: Ints) -> list[ChunkGroup]:
        single = 0 if self.kernel is None else int((spans.widths.cumsum() == np.arange(1, len(spans.widths) + 1)).sum())
        groups = [self._in_place(spans.starts[:single], blocks[:single])] if single else []
        if single < len(spans.widths):
            rest, held = spans.part(slice(single, None)), blocks[single:]
            groups += [self._group(rest.part(members), held[members]) for members in _alike(rest, self.worth)]
        return groups

    def _in_place(self, positions: Ints, blocks: Ints) -> ChunkGroup:
        count, pages = len(positions), int(positions.max()) // self.block_size + 1
        held = np.ascontiguousarray(blocks[:, :pages], np.int32)
        lengths = (positions + 1).astype(np.int32)
        return ChunkGroup(0, count, count, 1, blocks=self._tensor(held), lengths=self._tensor(lengths))

    def _group(self, spans: Spans, blocks: Ints) -> ChunkGroup:
        count, width, longest = len(spans.starts), int(spans.widths.max()), int(spans.ends.max())
        begin, tokens = int(spans.offsets[0]), int(spans.widths.sum())
        if count == 1 and longest == width and (self.window is None or width <= self.window):
            return ChunkGroup(begin, begin + tokens, count, width)
        take, put = self._padding(spans.widths, width) if tokens < count * width else (None, None)
        # What lies beyond the end of a sequence is hidden by the mask.
        pages = -(-longest // self.block_size)
        mask = self._mask(spans, width, pages * self.block_size)
        strips = self._strips(self._tensor(np.ascontiguousarray(blocks[:, :pages])))
        return ChunkGroup(begin, begin + tokens, count, width, strips, mask, take, put)

    def _places(self, slots: Tensor) -> Tensor:
        """Return where the keys and values of tokens go, [tokens * groups * 2] in keys; ``slots`` counts in tokens."""
        first = slots // self.block_size * (2 * self.groups * self.block_size) + slots % self.block_size
        return (first[:, None] + self._parts * self.block_size).flatten()

    def _strips(self, blocks: Tensor) -> Tensor:
        """Return which strips sequences read, group by group, keys before values; ``blocks`` is [count, pages].

        A strip is what one block holds of one group's keys, or of its values.
        """
        return (blocks[:, None] * (2 * self.groups) + self._parts[:, None]).flatten()

    @property
    def _parts(self) -> Tensor:
        return torch.arange(2 * self.groups, device=self.device)

    def _mask(self, spans: Spans, width: int, keys: int) -> Tensor:
        """Return what to add to the scores: 0 where a token sees, else -inf.

        It is [count, 1, queries * width, keys], with one row for all queries where each sequence has one token.
        """
        if width == 1:
            return self._hidden(spans.starts[:, None], keys)[:, None, None]
        # Padding queries see what the sequence's first token sees: never an empty row, which would be NaN.
        offsets = np.arange(width) * (np.arange(width) < spans.widths[:, None])
        last = (spans.starts[:, None] + offsets)[:, :, None]
        return self._hidden(last, keys).repeat(1, self.queries, 1)[:, None]

    def _hidden(self, last: Ints, keys: int) -> Tensor:
        """Return 0 for each of ``keys`` that the token at position ``last`` [..., 1] sees, else -inf."""
        at = np.arange(keys)
        hidden = at > last
        if self.window is not None:
            hidden |= at <= last - self.window
        return torch.from_numpy(np.where(hidden, MINUS_INFINITY, ZERO)).to(self.device, self.dtype)

    def _padding(self, widths: Ints, width: int) -> tuple[Tensor, Tensor]:
        inside = np.arange(width) < widths[:, None]
        first = (np.cumsum(widths) - widths)[:, None]
        take = np.where(inside, first + np.arange(width), first)
        return self._tensor(take.ravel()), self._tensor(np.flatnonzero(inside))

    def _tensor(self, array: Ints | NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


@dataclass(frozen=True, slots=True)
class Spans:
    """Of each chunk: the positions where it starts and ends, how many tokens it has, from where they are stored, and
    its offset in the step."""

    starts: Ints
    ends: Ints
    widths: Ints
    writes: Ints
    offsets: Ints

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Spans:
        starts, widths, writes = np.array([(c.start, len(c.tokens), c.write) for c in chunks], np.int64).T
        return cls(starts, starts + widths, widths, writes, np.cumsum(widths) - widths)

    def part(self, members: slice) -> Spans:
        arrays = self.starts, self.ends, self.widths, self.writes, self.offsets
        return Spans(*(array[members] for array in arrays))


def table(chunks: Sequence[Chunk]) -> Ints:
    """Return the blocks of each sequence, [chunks, most], padded with block 0."""
    return np.array(list(zip_longest(*(c.blocks for c in chunks), fillvalue=0)), np.int64).T


def _alike(spans: Spans, worth: int) -> Iterator[slice]:
    """Split chunks into runs that are padded to one another, as long as that wastes no more than one call is worth.

    The work of a chunk is its keys times its queries, and its keys once more: they are gathered first.
    """
    first = real = width = keys = 0
    for at, (own_width, own_keys) in enumerate(zip(spans.widths.tolist(), spans.ends.tolist(), strict=True)):
        w, k, own = max(width, own_width), max(keys, own_keys), own_keys * (own_width + 1)
        real += own
        if at > first and (at - first + 1) * k * (w + 1) - real > worth:
            yield slice(first, at)
            first, real, w, k = at, own, own_width, own_keys
        width, keys = w, k
    yield slice(first, len(spans.starts))
