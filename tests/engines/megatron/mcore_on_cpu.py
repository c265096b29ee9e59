"""A program: megatron-core's own dynamic engine on the CPU, with plain functions where it calls CUDA and flash-attn.

Everything else is the real one: its scheduler, cache, context and controller, around our model and our sampling. It
runs in a process of its own, since what it replaces belongs to torch.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[3]))
for module in ("triton", "triton.language"):  # where it is installed, megatron-core takes its kernels, which need a GPU
    sys.modules[module] = None  # type: ignore[assignment]


class Event:
    """The part of a CUDA event that the engine uses: the time of its steps, which no test reads."""

    def __init__(self, enable_timing: bool) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 0.0


def unpinned(make: Any) -> Any:
    return lambda *args, pin_memory=False, **settings: make(*args, **settings)


def attend(q: Tensor, keys: Tensor, values: Tensor, blocks: Tensor, length: int, scale: float) -> Tensor:
    """Attend of a sequence's last tokens [tokens, heads, channels] over its pages, causally."""
    k, v = (t[blocks.clamp(min=0).long()].flatten(0, 1)[:length] for t in (keys, values))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    last = torch.arange(length - len(q), length)
    hidden = torch.arange(length) > last[:, None]
    scores = torch.einsum("qhc,khc->hqk", q, k) * scale
    return torch.einsum("hqk,khc->qhc", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float,
    causal: bool,
    block_table: Tensor,
) -> Tensor:
    out = torch.zeros_like(q)
    ends, lengths = cu_seqlens_q.tolist(), cu_seqlens_k.diff().tolist()
    for i, length in enumerate(lengths):
        rows = slice(ends[i], ends[i + 1])
        if ends[i] < ends[i + 1]:
            out[rows] = attend(q[rows], k, v, block_table[i], length, softmax_scale)
    return out


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    cache_seqlens: Tensor,
    block_table: Tensor,
    causal: bool,
    num_splits: int,
) -> Tensor:
    out = torch.zeros_like(q)
    for i, length in enumerate(cache_seqlens.tolist()[: len(q)]):
        if length > 0:
            out[i] = attend(q[i], k_cache, v_cache, block_table[i], length, q.shape[-1] ** -0.5)
    return out


def replace_cuda() -> None:
    from launcher.engines.megatron import distributed

    distributed.import_quietly()
    from megatron.core.transformer import attention

    cuda: Any = torch.cuda
    cuda.current_device, cuda.device, cuda.Event = lambda: "cpu", lambda _: nullcontext(), Event
    cuda.nvtx.range_push, cuda.nvtx.range_pop = lambda _: None, lambda: None
    torch.empty, torch.empty_like = unpinned(torch.empty), unpinned(torch.empty_like)
    attention.flash_attn_varlen_func = flash_attn_varlen_func
    attention.flash_attn_with_kvcache = flash_attn_with_kvcache
    attention.is_fa_min_version = lambda _: True


async def check(runner: Any, expected: Any, requests: Any) -> None:
    from tests.engines.answers import request, together
    from tests.engines.megatron.test_executor import check_logprobs, check_same

    found = await together(runner, requests)
    check_same(requests, expected, found)
    for r, one in zip(requests, found, strict=True):
        check_logprobs(runner, r, one)
    async with aclosing(runner.generate(request("leaves", [1, 2, 3], max_tokens=200))) as events:
        await anext(events)
    check_same(requests[:3], expected[:3], await together(runner, requests[:3]))
    full = request("full", [i % 250 for i in range(255)], max_tokens=5, logprobs=0, prompt_logprobs=1)
    scored = request("scored", [5, 6, 7], max_tokens=0, prompt_logprobs=1)
    one, other = await together(runner, [full, scored])
    assert (len(one.ids), one.finish, len(other.ids), other.finish) == (1, "length", 0, "length")
    check_logprobs(runner, full, one)
    check_logprobs(runner, scored, other)


def main(name: str, num_blocks: int) -> None:
    replace_cuda()
    from launcher.core.tokenizer import ByteTokenizer
    from launcher.engines.megatron.dynamic import RequestTracker
    from launcher.engines.megatron.mcore import Dynamic
    from launcher.engines.runtime.batching import BatchedAsyncEngine
    from launcher.engines.runtime.scheduler import SchedulerConfig
    from tests.engines.answers import together
    from tests.engines.megatron.test_executor import ARCHITECTURES, mixed_requests
    from tests.engines.megatron.tiny_models import running, worker_config

    requests, limits, tokenizer = mixed_requests(12, seed=5), SchedulerConfig(256, max_sequences=8), ByteTokenizer()
    config = replace(worker_config(ARCHITECTURES[name]), block_size=256, num_blocks=num_blocks)
    with running(worker_config(ARCHITECTURES[name])) as portable:
        expected = asyncio.run(together(portable, requests))
    with config.model(0, torch.device("cpu")) as model:
        tracker = RequestTracker(limits, tokenizer.vocab_size, tokenizer.eos_ids)
        engine = Dynamic(model, config, limits, tokenizer.vocab_size, tracker)
        runner = BatchedAsyncEngine("tiny", tokenizer, engine, limits, {}, scheduler=tracker)
        try:
            asyncio.run(check(runner, expected, requests))
            state = runner.state()
        finally:
            runner.close()
            engine.close()
    print(f"{name}: as the portable runtime, in {state.steps} steps")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
