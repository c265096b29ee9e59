"""A Triton kernel of decode steps: attention over the paged cache in place, split over the keys (flash decoding)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
"""Keys that a program reads at a time."""
LEAST_KEYS = 256
"""A split has at least so many keys: fewer cost more to merge than they save."""
LEAST_ROWS = 16
"""Rows of the smallest product that tensor cores compute; queries are padded to it."""
LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _attend_split(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    blocks: Tensor,
    partials: Tensor,
    logsums: Tensor,
    scale: float,
    window: int,
    span: int,
    query_sequence: int,
    query_head: int,
    key_block: int,
    key_token: int,
    key_group: int,
    value_block: int,
    value_token: int,
    value_group: int,
    block_sequence: int,
    page: tl.constexpr,
    tile: tl.constexpr,
    channels: tl.constexpr,
    padded: tl.constexpr,
    per_group: tl.constexpr,
    rows: tl.constexpr,
    product: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attend with the queries of one key head to ``span`` keys of one sequence; write the mean and its log-sum."""
    sequence, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups, splits = tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths + sequence)
    begin = tl.maximum(length - window, 0) + split * span
    end = tl.minimum(begin + span, length)
    row, channel, offset = tl.arange(0, rows), tl.arange(0, padded), tl.arange(0, tile)
    real = (row[:, None] < per_group) & (channel[None, :] < channels)
    head = group * per_group + row
    query = tl.load(queries + sequence * query_sequence + head[:, None] * query_head + channel[None, :], real, 0.0)
    query = query.to(product)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    mean = tl.zeros((rows, padded), tl.float32)
    for start in range(begin, end, tile):
        position = start + offset
        live = position < end
        block = tl.load(blocks + sequence * block_sequence + position // page, live, 0).to(tl.int64)
        slot = position % page
        seen = live[:, None] & (channel[None, :] < channels)
        key_at = keys + block[:, None] * key_block + slot[:, None] * key_token + group * key_group
        value_at = values + block[:, None] * value_block + slot[:, None] * value_token + group * value_group
        key = tl.load(key_at + channel[None, :], seen, 0.0).to(product)
        value = tl.load(value_at + channel[None, :], seen, 0.0).to(product)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        scores = tl.where(live[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        earlier = tl.exp2(top - higher)
        mean = mean * earlier[:, None] + tl.dot(weights.to(product), value, input_precision=precision)
        total = total * earlier + tl.sum(weights, 1)
        top = higher
    some = total > 0
    place = ((sequence * groups + group) * splits + split) * per_group + row
    tl.store(logsums + place, tl.where(some, top + tl.log2(tl.where(some, total, 1.0)), float("-inf")), row < per_group)
    mean = mean / tl.where(some, total, 1.0)[:, None]
    tl.store(partials + place[:, None] * channels + channel[None, :], mean, real)


@triton.jit  # type: ignore[untyped-decorator]
def _merge(
    partials: Tensor,
    logsums: Tensor,
    outputs: Tensor,
    splits: int,
    output_sequence: int,
    output_head: int,
    channels: tl.constexpr,
    padded: tl.constexpr,
    per_group: tl.constexpr,
    padded_splits: tl.constexpr,
) -> None:
    """Join the means of all splits of one sequence and head, each weighted by its sum; 0 for a sequence of no key."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    groups = tl.num_programs(1) // per_group
    split, channel = tl.arange(0, padded_splits), tl.arange(0, padded)
    place = ((sequence * groups + head // per_group) * splits + split) * per_group + head % per_group
    logsum = tl.load(logsums + place, split < splits, float("-inf"))
    top = tl.max(logsum, 0)
    weights = tl.where(logsum == float("-inf"), 0.0, tl.exp2(logsum - tl.where(top == float("-inf"), 0.0, top)))
    real = (split[:, None] < splits) & (channel[None, :] < channels)
    partial = tl.load(partials + place[:, None] * channels + channel[None, :], real, 0.0)
    total = tl.sum(weights, 0)
    mean = tl.sum(partial * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    out = outputs + sequence * output_sequence + head * output_head + channel
    tl.store(out, mean, channel < channels)


def kernel(processors: int) -> Callable[..., Tensor]:
    """Return the kernel for a device with so many multiprocessors, as a `PagedKernel`.

    The number of splits follows from the shapes alone, so that a captured step replays with other lengths.
    Source: Dao et al., "Flash-Decoding for long-context inference" (2023).
    """
    return partial(_attend, processors)


def _attend(
    processors: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    blocks: Tensor,
    scale: float | None,
    window: int | None,
) -> Tensor:
    sequences, heads, channels = queries.shape
    page, groups = keys.shape[1], keys.shape[2]
    most = blocks.shape[1] * page if window is None else min(blocks.shape[1] * page, window)
    splits = number_of_splits(sequences * groups, most, processors)
    span = triton.cdiv(triton.cdiv(most, splits), TILE) * TILE
    per_group = heads // groups
    padded = max(LEAST_ROWS, triton.next_power_of_2(channels))
    partials = queries.new_empty((sequences, groups, splits, per_group, channels), dtype=torch.float32)
    logsums = queries.new_empty((sequences, groups, splits, per_group), dtype=torch.float32)
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    _attend_split[(sequences, groups, splits)](
        *(queries, keys, values, lengths, blocks, partials, logsums),
        (channels**-0.5 if scale is None else scale) * LOG2_E,
        2**30 if window is None else window,
        span,
        *queries.stride()[:2],
        *(keys.stride(0), keys.stride(1), keys.stride(2)),
        *(values.stride(0), values.stride(1), values.stride(2)),
        blocks.stride(0),
        page=page,
        tile=TILE,
        channels=channels,
        padded=padded,
        per_group=per_group,
        rows=max(LEAST_ROWS, triton.next_power_of_2(per_group)),
        product=_product(queries.dtype),
        precision="ieee",
    )
    _merge[(sequences, heads)](
        *(partials, logsums, out, splits),
        *out.stride()[:2],
        channels=channels,
        padded=padded,
        per_group=per_group,
        padded_splits=triton.next_power_of_2(splits),
    )
    return out


def _product(dtype: torch.dtype) -> tl.dtype:
    """Return the type in which products are computed; Triton's interpreter has none of bf16."""
    if triton.knobs.runtime.interpret:
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]


def number_of_splits(programs: int, keys: int, processors: int) -> int:
    """Return over how many programs the keys of a sequence are split: enough that no multiprocessor idles."""
    wanted = -(-2 * processors // max(programs, 1))
    return max(1, min(wanted, -(-keys // LEAST_KEYS)))
