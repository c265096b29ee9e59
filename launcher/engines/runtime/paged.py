"""Attention of one step over the paged cache: the slots of its keys and values, and the mask of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from launcher.engines.runtime import page_rows
from launcher.engines.runtime.page_rows import PageRows
from launcher.engines.runtime.step import Chunk, StepPlan

Ints = NDArray[np.int64]

CALL_COST = 100_000
"""The cost of one more attention call, in cached numbers that padding may read instead (measured on a CPU)."""

MINUS_INFINITY, ZERO = np.float32(-np.inf), np.float32(0)

PagedKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float | None, int | None], Tensor]
"""Attends over the paged cache in place, with one query per sequence.

Arguments: queries [sequences, heads, channels]; the pages of keys and of values [blocks, block size, groups, channels];
the number of tokens that each sequence sees [sequences] and its blocks [sequences, pages], both int32; the scale (None:
from the channels); the window. Returns the shape of the queries.
"""


def allow_flash(allowed: bool, device: torch.device) -> None:
    """Allow or forbid torch's flash kernel on a GPU; other devices have none."""
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

    ``pad_index`` gathers the queries into [count * width] (None if no padding is needed), and ``unpad_index`` picks the
    real rows out of the padded result. ``gather_index`` [count * groups * 2 * blocks per sequence] gathers keys and
    values. ``mask`` [count, 1, queries per group * width (or 1), keys] is added to the scores. A chunk that sees only
    itself has neither. With ``lengths`` [count] the kernel reads the cache itself, by ``blocks`` [count, blocks per
    sequence]. With ``page_rows`` single tokens read it by the numbers of its rows.
    """

    begin: int
    end: int
    count: int
    width: int
    gather_index: Tensor | None = None
    mask: Tensor | None = None
    pad_index: Tensor | None = None
    unpad_index: Tensor | None = None
    blocks: Tensor | None = None
    lengths: Tensor | None = None
    page_rows: PageRows | None = None


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """A `StepPlan` as tensors; built once, used by every layer.

    ``tokens`` and ``positions`` are [1, T]. ``slots`` [T * groups * 2] are the cache slots of each token's keys and
    values, counted in keys. ``rows`` picks the tokens whose logits are needed. ``cos``, ``sin`` are [T, 1, 1, rotated],
    or None without rotary embedding.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    chunk_groups: Sequence[ChunkGroup]
    cos: Tensor | None
    sin: Tensor | None
    interleaved: bool
    scale: float | None
    block_size: int
    window: int | None = None
    kernel: PagedKernel | None = None

    def attend(self, qkv: Tensor, cache: Tensor) -> Tensor:
        """Rotate, store and attend.

        ``qkv`` [T, groups, queries + 2, channels] holds each group's queries, its key and its value, and is
        overwritten. ``cache`` is [blocks, groups, key and value, block size, channels]. What one head reads of a block
        is contiguous, which is twice as fast on a CPU. Returns [T, heads * channels].
        """
        if self.cos is not None and self.sin is not None:
            _rotate(qkv[:, :, :-1, : self.cos.shape[-1]], self.cos, self.sin, self.interleaved)
        channels = qkv.shape[-1]
        cache.view(-1, channels).index_copy_(0, self.slots, qkv[:, :, -2:].reshape(-1, channels))
        outputs = [self._attend_group(group, qkv, cache) for group in self.chunk_groups]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _attend_group(self, group: ChunkGroup, qkv: Tensor, cache: Tensor) -> Tensor:
        rows = qkv[group.begin : group.end]
        if group.lengths is not None and group.blocks is not None:
            return self._attend_kernel(rows, cache, group.lengths, group.blocks)
        if group.page_rows is not None:
            return group.page_rows.attend(rows[:, :, :-2], cache, self.scale)
        if group.gather_index is None:
            return self._attend_causal(rows)
        queries = rows[:, :, :-2] if group.pad_index is None else rows[:, :, :-2].index_select(0, group.pad_index)
        groups, per_group, channels = queries.shape[1:]
        # Queries that share a key head are stacked along the query axis, so that no key is repeated.
        q = queries.reshape(group.count, group.width, groups, per_group, channels)
        q = q.permute(0, 2, 3, 1, 4).reshape(group.count, groups, per_group * group.width, channels)
        gather_index = cache.view(-1, self.block_size * channels).index_select(0, group.gather_index)
        keys, values = gather_index.view(group.count, groups, 2, -1, channels).unbind(2)
        out = F.scaled_dot_product_attention(q, keys, values, group.mask, scale=self.scale)
        out = out.view(group.count, groups, per_group, group.width, channels).permute(0, 3, 1, 2, 4)
        out = out.reshape(group.count * group.width, -1)
        return out if group.unpad_index is None else out.index_select(0, group.unpad_index)

    def _attend_kernel(self, rows: Tensor, cache: Tensor, lengths: Tensor, blocks: Tensor) -> Tensor:
        """Attend with one token per sequence; the kernel reads the cache in place."""
        assert self.kernel is not None
        keys, values = cache.permute(0, 3, 1, 2, 4).unbind(3)
        out = self.kernel(rows[:, :, :-2].flatten(1, 2), keys, values, lengths, blocks, self.scale, self.window)
        return out.flatten(1)

    def _attend_causal(self, rows: Tensor) -> Tensor:
        """Attend among the first tokens of one sequence: causal, without the cache and without a mask."""
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
class MetadataBuilder:
    """Builds the metadata of steps for one model and its cache.

    ``groups`` is the number of key heads, ``queries`` that of query heads per key head. ``window`` bounds how far back
    a token sees. ``padding_budget`` is how much padding, in queries times keys, is cheaper than one more call.
    ``kernel``, if any, computes all chunks of one token.
    """

    num_blocks: int
    block_size: int
    groups: int
    queries: int
    padding_budget: int
    device: torch.device
    dtype: torch.dtype
    rope: Rope | None
    window: int | None = None
    scale: float | None = None
    kernel: PagedKernel | None = None

    def build(self, plan: StepPlan) -> AttentionMetadata:
        """Build the metadata of a plan; chunks sorted by length need few groups and little padding."""
        spans = Spans.of(plan.chunks)
        owners = np.repeat(np.arange(len(plan.chunks)), spans.widths)
        positions = np.arange(len(owners)) + (spans.starts - spans.offsets)[owners]
        blocks = block_table(plan.chunks)
        # Block 0 takes the writes of tokens that are cached already.
        into = blocks[owners, positions // self.block_size] * (positions >= spans.writes[owners])
        tokens = np.fromiter(chain.from_iterable(c.tokens for c in plan.chunks), np.int64, len(owners))
        return self._metadata(
            self._tensor(tokens),
            self._tensor(positions),
            self._tensor(into * self.block_size + positions % self.block_size),
            self._tensor(np.asarray(plan.rows, np.int64)),
            self._groups(spans, blocks),
        )

    def build_decode(self, tokens: Tensor, positions: Tensor, slots: Tensor, blocks: Tensor) -> AttentionMetadata:
        """Build the metadata of one token per sequence from tensors on the device, without the host.

        ``tokens``, ``positions`` and ``slots`` are [sequences], ``blocks`` is [sequences, pages]; all are int64. The
        operations depend only on their shapes, so that a graph can capture them.
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
            group = ChunkGroup(0, count, count, 1, self._gather_index(blocks), mask[:, None, None])
        return self._metadata(tokens, positions, slots, torch.arange(count, device=self.device), [group])

    def _metadata(
        self, tokens: Tensor, at: Tensor, slots: Tensor, rows: Tensor, groups: Sequence[ChunkGroup]
    ) -> AttentionMetadata:
        return AttentionMetadata(
            tokens=tokens[None],
            positions=at[None],
            slots=self._kv_slots(slots),
            rows=rows,
            chunk_groups=groups,
            cos=None if self.rope is None else self.rope.cos.index_select(0, at)[:, None, None],
            sin=None if self.rope is None else self.rope.sin.index_select(0, at)[:, None, None],
            interleaved=self.rope is not None and self.rope.interleaved,
            scale=self.scale,
            block_size=self.block_size,
            window=self.window,
            kernel=self.kernel,
        )

    def _groups(self, spans: Spans, blocks: Ints) -> list[ChunkGroup]:
        single = int((spans.widths.cumsum() == np.arange(1, len(spans.widths) + 1)).sum())
        if self.kernel is not None and single:
            groups = [self._kernel_group(spans.starts[:single], blocks[:single])]
        elif page_rows.supported(self.device, self.dtype):
            groups = self._split(spans.part(slice(single)), blocks[:single], self._rows_group)
        else:
            groups, single = [], 0
        return groups + self._split(spans.part(slice(single, None)), blocks[single:], self._gather_group)

    def _split(self, spans: Spans, blocks: Ints, make: Callable[[Spans, Ints], ChunkGroup]) -> list[ChunkGroup]:
        parts = _split_by_padding(spans, self.padding_budget) if len(spans.widths) else ()
        return [make(spans.part(members), blocks[members]) for members in parts]

    def _kernel_group(self, positions: Ints, blocks: Ints) -> ChunkGroup:
        count, pages = len(positions), int(positions.max()) // self.block_size + 1
        held = np.ascontiguousarray(blocks[:, :pages], np.int32)
        lengths = (positions + 1).astype(np.int32)
        return ChunkGroup(0, count, count, 1, blocks=self._tensor(held), lengths=self._tensor(lengths))

    def _rows_group(self, spans: Spans, blocks: Ints) -> ChunkGroup:
        count, longest, begin = len(spans.starts), int(spans.ends.max()), int(spans.offsets[0])
        per_block = 2 * self.groups * self.block_size
        held = self._tensor(np.ascontiguousarray(blocks[:, : -(-longest // self.block_size)])) * per_block
        keys = (held[:, :, None] + torch.arange(self.block_size)).view(count, 1, -1)[:, :, :longest]
        heads = torch.arange(self.groups).repeat_interleave(self.queries) * (2 * self.block_size)
        hidden = self.window is not None or int(spans.ends.min()) < longest
        mask = self._visibility(spans.starts[:, None], longest)[:, None] if hidden else None
        rows = PageRows.of(keys + heads[:, None], self.block_size, self.num_blocks * per_block, mask)
        return ChunkGroup(begin, begin + count, count, 1, page_rows=rows)

    def _gather_group(self, spans: Spans, blocks: Ints) -> ChunkGroup:
        count, width, longest = len(spans.starts), int(spans.widths.max()), int(spans.ends.max())
        begin, tokens = int(spans.offsets[0]), int(spans.widths.sum())
        if count == 1 and longest == width and (self.window is None or width <= self.window):
            return ChunkGroup(begin, begin + tokens, count, width)
        pad_index, unpad_index = self._padding(spans.widths, width) if tokens < count * width else (None, None)
        # The mask hides everything beyond the end of a sequence.
        pages = -(-longest // self.block_size)
        mask = self._mask(spans, width, pages * self.block_size)
        gather_index = self._gather_index(self._tensor(np.ascontiguousarray(blocks[:, :pages])))
        return ChunkGroup(begin, begin + tokens, count, width, gather_index, mask, pad_index, unpad_index)

    def _kv_slots(self, slots: Tensor) -> Tensor:
        """Return the slots of keys and values, [tokens * groups * 2] counted in keys; ``slots`` counts in tokens."""
        first = slots // self.block_size * (2 * self.groups * self.block_size) + slots % self.block_size
        return (first[:, None] + self._kv_parts * self.block_size).flatten()

    def _gather_index(self, blocks: Tensor) -> Tensor:
        """Return the index that gathers keys and values, group by group, keys first; ``blocks`` is [count, pages].

        Each entry selects what one block holds of one group's keys, or of its values.
        """
        return (blocks[:, None] * (2 * self.groups) + self._kv_parts[:, None]).flatten()

    @property
    def _kv_parts(self) -> Tensor:
        return torch.arange(2 * self.groups, device=self.device)

    def _mask(self, spans: Spans, width: int, keys: int) -> Tensor:
        """Return the additive mask: 0 for visible keys, else -inf.

        It is [count, 1, queries * width, keys], or has one row for all queries if each sequence has one token.
        """
        if width == 1:
            return self._visibility(spans.starts[:, None], keys)[:, None, None]
        # A padding query sees what the sequence's first token sees: a row without visible keys would be NaN.
        offsets = np.arange(width) * (np.arange(width) < spans.widths[:, None])
        last = (spans.starts[:, None] + offsets)[:, :, None]
        return self._visibility(last, keys).repeat(1, self.queries, 1)[:, None]

    def _visibility(self, last: Ints, keys: int) -> Tensor:
        """Return 0 for each of ``keys`` that is visible to the token at position ``last`` [..., 1], else -inf."""
        at = np.arange(keys)
        hidden = at > last
        if self.window is not None:
            hidden |= at <= last - self.window
        return torch.from_numpy(np.where(hidden, MINUS_INFINITY, ZERO)).to(self.device, self.dtype)

    def _padding(self, widths: Ints, width: int) -> tuple[Tensor, Tensor]:
        inside = np.arange(width) < widths[:, None]
        first = (np.cumsum(widths) - widths)[:, None]
        pad_index = np.where(inside, first + np.arange(width), first)
        return self._tensor(pad_index.ravel()), self._tensor(np.flatnonzero(inside))

    def _tensor(self, array: Ints | NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


@dataclass(frozen=True, slots=True)
class Spans:
    """Arrays over chunks: start and end position, number of tokens, first position to store, offset in the step."""

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


def block_table(chunks: Sequence[Chunk]) -> Ints:
    """Return the block table [chunks, pages], padded with block 0."""
    return np.array(list(zip_longest(*(c.blocks for c in chunks), fillvalue=0)), np.int64).T


def _split_by_padding(spans: Spans, padding_budget: int) -> Iterator[slice]:
    """Split chunks into runs that are padded to equal size, while the padding stays within ``padding_budget``.

    The work of a chunk is its keys times its queries, plus its keys once: they are gathered first.
    """
    first = real = width = keys = 0
    for at, (own_width, own_keys) in enumerate(zip(spans.widths.tolist(), spans.ends.tolist(), strict=True)):
        w, k, own = max(width, own_width), max(keys, own_keys), own_keys * (own_width + 1)
        real += own
        if at > first and (at - first + 1) * k * (w + 1) - real > padding_budget:
            yield slice(first, at)
            first, real, w, k = at, own, own_width, own_keys
        width, keys = w, k
    yield slice(first, len(spans.starts))
