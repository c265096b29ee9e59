"""What flash-attn's kernel is given, and when it is used; a plain kernel replaces it, since it needs a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.engines.megatron.layout import obstacles
from launcher.engines.runtime import flash
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.paged import PagedKernel
from launcher.engines.runtime.scheduler import SchedulerConfig
from tests.engines.answers import together
from tests.engines.megatron.tape import Tape
from tests.engines.megatron.test_executor import ARCHITECTURES, check_logprobs, check_same, mixed_requests
from tests.engines.megatron.tiny_models import TINY, running, worker_config


class PlainKernel:
    """Attends as flash-attn documents `flash_attn_with_kvcache` to, by its arguments; checks those as it does."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        lengths: Tensor,
        blocks: Tensor,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        self.calls += 1
        assert lengths.dtype == blocks.dtype == torch.int32
        assert keys.stride(-1) == values.stride(-1) == blocks.stride(-1) == 1
        assert keys.data_ptr() != values.data_ptr()
        _, heads, channels = queries.shape
        groups = keys.shape[2]
        k, v = (t[blocks.long()].flatten(1, 2).repeat_interleave(heads // groups, 2) for t in (keys, values))
        at = torch.arange(k.shape[1])
        seen = at < lengths[:, None]
        if window is not None:
            seen &= at >= lengths[:, None] - window
        scores = torch.einsum("nhc,nkhc->nhk", queries, k) * (channels**-0.5 if scale is None else scale)
        weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        return torch.einsum("nhk,nkhc->nhc", weights, v)


def use(kernel: PagedKernel, graphs: Buckets | None = None) -> Any:
    """Return what gives a stage a kernel, and lets it record steps."""

    def prepare(stage: Any) -> None:
        stage._metadata_builder = replace(stage._metadata_builder, kernel=kernel)
        if graphs is not None:
            stage.capture_graphs(graphs, Tape())

    return prepare


@pytest.mark.parametrize("name", ["llama", "one_key_head", "gpt_neox", "qwen3", "sliding_window"])
async def test_decode_steps_by_a_kernel_over_the_pages(name: str) -> None:
    """In mixed steps too: some sequences generate while prompts of others are computed in chunks."""
    kernel, requests = PlainKernel(), mixed_requests(12, seed=8)
    architecture = ARCHITECTURES[name]
    with running(worker_config(architecture)) as plain:
        expected = await together(plain, requests)
    with running(worker_config(architecture), SchedulerConfig(256, prefill_chunk=30), use(kernel)) as made:
        found = await together(made, requests)
        check_same(requests, expected, found)
        check_logprobs(made, requests[0], found[0])
    assert kernel.calls > 0


async def test_a_kernel_in_captured_steps() -> None:
    kernel, requests = PlainKernel(), mixed_requests(12, seed=9)
    buckets = Buckets.of(12, TINY.context_length, 16, 513, full_width=True)
    with running(worker_config()) as plain:
        expected = await together(plain, requests)
    with running(worker_config(), prepare=use(kernel, buckets)) as made:
        check_same(requests, expected, await together(made, requests))
        facts = made.describe()["cuda_graphs"]
    assert facts["tokens_per_sequence"] == [256]
    assert facts["replays"] > 10


@pytest.mark.parametrize(("channels", "fit"), [(16, True), (64, True), (256, True), (20, False), (264, False)])
def test_heads_that_the_kernel_cannot_compute(channels: int, fit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's takes any number of channels, up to the same."""
    monkeypatch.setattr(flash, "installed", lambda: False)
    assert ("flash_decode" in obstacles(replace(TINY, kv_channels=channels))) is (channels > 256)
    monkeypatch.setattr(flash, "installed", lambda: True)
    assert (flash.head_dim_obstacle(channels) == "") is fit
    assert ("flash_decode" in obstacles(replace(TINY, kv_channels=channels))) is not fit
