"""What only a GPU has gives the answers of a plain forward pass: CUDA graphs, flash-attn's kernel, NCCL."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from launcher.distributed.allocation import Allocation
from launcher.engines.base import GenerationRequest
from launcher.engines.megatron import Megatron
from launcher.engines.megatron.runtime import Runtime
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.runtime import decode_kernels, flash
from launcher.engines.runtime.buckets import Buckets
from launcher.engines.runtime.scheduler import SchedulerConfig
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from tests.engines import deployments
from tests.engines.answers import Answer, together
from tests.engines.megatron.test_executor import ARCHITECTURES, check_logprobs, check_same, mixed_requests
from tests.engines.megatron.tiny_models import TINY, running, worker_config


def gpus() -> int:
    """Count the GPUs that torch can use; importing it here keeps collection fast where there is none."""
    from launcher.distributed.allocation import allocate

    if not allocate().gpus:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


COUNT = gpus()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(COUNT == 0, reason="needs an NVIDIA GPU; this host has none")]

needs_kernel = pytest.mark.skipif(not decode_kernels.installed(), reason=decode_kernels.NO_KERNEL)
needs_flash_attn = pytest.mark.skipif(not flash.installed(), reason="needs the package flash-attn")

HALF_TOLERANCE = 0.15
"""The mean distance of log-probabilities that rounding to bf16 may explain: on a CPU it is 0.05 for these models, whose
log-probabilities spread by more than 1."""

REQUESTS = 12


@pytest.fixture(autouse=True)
def exact_multiplication() -> Iterator[None]:
    """Float32 is compared with float32: no product of TF32 in between."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on_gpu(graphs: bool = False, flash_decode: bool = False, dtype: Dtype = Dtype.fp32, **changes: Any) -> WorkerConfig:
    config = replace(worker_config(tokens=16_384), device="cuda", dtype=dtype, flash_decode=flash_decode, **changes)
    if flash_decode:
        config = replace(config, block_size=flash.PAGE_MULTIPLE, num_blocks=REQUESTS + 1)
    buckets = Buckets.of(REQUESTS, TINY.context_length, config.block_size, config.num_blocks, full_width=flash_decode)
    return replace(config, graphs=buckets if graphs else None)


@pytest.fixture(scope="module")
def requests() -> list[GenerationRequest]:
    return mixed_requests(REQUESTS, seed=5)


@pytest.fixture(scope="module")
def expected(requests: Sequence[GenerationRequest]) -> list[Answer]:
    with running(on_gpu()) as plain:
        return asyncio.run(together(plain, requests))


async def test_the_plain_path_is_exact(requests: Sequence[GenerationRequest], expected: Sequence[Answer]) -> None:
    with running(on_gpu()) as made:
        for r, found in zip(requests, expected, strict=True):
            check_logprobs(made, r, found)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2", "qwen3", "sliding_window"])
async def test_cuda_graphs_are_exact(name: str, requests: Sequence[GenerationRequest]) -> None:
    config = on_gpu(graphs=True, architecture=ARCHITECTURES[name])
    with running(config, SchedulerConfig(256, prefill_chunk=50)) as made:
        for r, found in zip(requests, await together(made, requests), strict=True):
            check_logprobs(made, r, found)
        facts = made.describe()["cuda_graphs"]
    assert facts["replays"] > 10
    assert facts["capture_s"] > 0


async def test_cuda_graphs_on_and_off_give_the_same(
    requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    with running(on_gpu(graphs=True)) as made:
        check_same(requests, expected, await together(made, requests))
        again = await together(made, requests)
        check_same(requests, expected, again)


def close(requests: Sequence[GenerationRequest], runner: Any, answers: Sequence[Answer]) -> None:
    """Compare with a plain forward pass of the same type, over the same tokens."""
    distances = [
        abs(token.logprob - plain)
        for r, found in zip(requests, answers, strict=True)
        for token, plain in zip(
            found.tokens, runner.reference([*r.prompt, *found.ids])[len(r.prompt) - 1 :], strict=True
        )
    ]
    assert statistics.mean(distances) < HALF_TOLERANCE


@needs_kernel
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["llama", "one_key_head", "sliding_window"])
async def test_flash_decode_is_close(name: str, graphs: bool, requests: Sequence[GenerationRequest]) -> None:
    config = on_gpu(graphs, flash_decode=True, dtype=Dtype.bf16, architecture=ARCHITECTURES[name])
    with running(config, SchedulerConfig(256, prefill_chunk=50)) as made:
        close(requests, made, await together(made, requests))


@pytest.mark.parametrize("flash_attention", [False, True])
async def test_flash_attention_is_close(flash_attention: bool, requests: Sequence[GenerationRequest]) -> None:
    with running(on_gpu(graphs=True, dtype=Dtype.bf16, flash_attention=flash_attention)) as made:
        close(requests, made, await together(made, requests))


@pytest.mark.skipif(COUNT < 2, reason="needs two NVIDIA GPUs")
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("layout", [Parallelism(tensor=2), Parallelism(pipeline=2)], ids=["tensor2", "pipeline2"])
async def test_over_two_gpus(
    layout: Parallelism, graphs: bool, requests: Sequence[GenerationRequest], expected: Sequence[Answer]
) -> None:
    with running(on_gpu(graphs, parallelism=layout)) as made:
        check_same(requests, expected, await together(made, requests))


@needs_flash_attn
async def test_megatron_cores_engine_is_close(requests: Sequence[GenerationRequest]) -> None:
    host = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=2, gpus=1)
    model = Model(name="tiny", path="package:launcher/assets/tiny")
    asked = Optimizations(dtype=Dtype.bf16)
    with deployments.load(
        Megatron(runtime=Runtime.mcore_dynamic, max_sequences=8), model, host, optimizations=asked
    ) as runner:
        assert runner.describe()["runtime"] == "mcore_dynamic"
        short = [replace(r, prompt=r.prompt[:20]) for r in requests]
        close(short, runner, await together(runner, short))


async def test_the_triton_kernel_is_close_to_attention() -> None:
    """Also where flash-attn is installed and would be taken; with lengths that a captured step did not have."""
    import torch

    pytest.importorskip("triton")
    from launcher.engines.runtime import paged_decode

    device = torch.device("cuda", 0)
    made = paged_decode.kernel(torch.cuda.get_device_properties(device).multi_processor_count)
    assert decode_kernels.trial(made, device) < decode_kernels.TOLERANCE


async def test_the_component_reports_what_was_captured(requests: Sequence[GenerationRequest]) -> None:
    host = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=2, gpus=1)
    model = Model(name="tiny", path="package:launcher/assets/tiny")
    asked = Optimizations(
        cuda_graphs=True, flash_decode=bool(decode_kernels.installed()), flash_attention=True, dtype=Dtype.bf16
    )
    with deployments.load(Megatron(max_sequences=8), model, host, optimizations=asked) as runner:
        await together(runner, [replace(r, prompt=r.prompt[:20]) for r in requests])
        facts: Any = runner.describe()
    assert facts["optimizations"]["cuda_graphs"]["active"]
    assert facts["cuda_graphs"]["sequences"] == [1, 2, 4, 8]
    assert facts["cuda_graphs"]["replays"] > 0
