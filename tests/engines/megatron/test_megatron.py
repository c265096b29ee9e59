"""The component: what it decides before loading, and the shipped checkpoint served by it at every layout."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from launcher.core.errors import CheckpointError, UserError
from launcher.distributed.allocation import Allocation
from launcher.engines.megatron import Megatron
from launcher.engines.runtime import flash
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism
from tests.engines import deployments
from tests.engines.answers import one_by_one, request, together

CPU = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=2, gpus=0)
TINY = Model(name="tiny", path="package:launcher/assets/tiny")


def plan(
    engine: Megatron | None = None, model: Model = TINY, optimizations: Optimizations | None = None
) -> dict[str, Any]:
    return deployments.plan(engine or Megatron(), model, CPU, optimizations=optimizations)


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from launcher.engines.megatron import Megatron; from launcher.settings.model import *;"
        "from launcher.distributed.allocation import Allocation; from launcher.engines.base import Deployment;"
        "model, engine = Model('tiny', 'package:launcher/assets/tiny'), Megatron();"
        "deployment = Deployment(model, engine, Parallelism(), Optimizations(), 'no-server');"
        "engine.plan(deployment, Allocation(('localhost',), 0, 1, 2, 0));"
        "heavy = {'torch', 'megatron', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loading_without_a_gpu_leaves_torchs_compiler_out_and_in_order() -> None:
    code = (
        "import sys, torch; compiles = torch.compile; from launcher.engines.megatron import distributed;"
        "torch.cuda.is_available = lambda: False; distributed.import_quietly();"
        "from launcher.engines.megatron import modules, stage;"
        "assert torch.compile is compiles; heavy = {'torch._dynamo', 'torch._inductor.compile_fx'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_the_plan_says_what_will_be_loaded() -> None:
    facts = plan()
    assert facts["parameters"] > 100_000
    assert facts["dtype"] == "fp32"
    assert facts["world_size"] == 1
    assert facts["threads_per_rank"] == 1
    assert facts["memory_gib_per_rank"]["weights"] > 0
    assert facts["cache_tokens"] >= facts["context_length"]


def test_what_a_cpu_cannot_do_is_inactive_with_the_reason() -> None:
    asked = Optimizations(cuda_graphs=True, flash_decode=True, flash_attention=True, prefix_caching=False)
    switches = plan(optimizations=asked)["optimizations"]
    for name in ("cuda_graphs", "flash_decode", "flash_attention"):
        assert switches[name] == {"asked": True, "active": False, "reason": "needs an NVIDIA GPU; this runs on CPU"}
    assert switches["prefix_caching"] == {"asked": False, "active": False, "reason": "not asked for"}


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"max_sequences": 0}, "engine.max_sequences is 0; must be at least 1"),
        ({"prefill_chunk": 0}, "engine.prefill_chunk is 0; must be at least 1"),
        ({"kv_cache_gib": 0.00001}, "engine.kv_cache_gib=1e-05: holds .* tokens, less than one context"),
        ({"kv_cache_gib": -1.0}, "engine.kv_cache_gib is -1.0; must be above 0"),
    ],
)
def test_impossible_settings_are_refused(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(Megatron(**engine))


def test_impossible_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="/nowhere"):
        plan(model=Model(path="/nowhere"))
    with pytest.raises(UserError, match=r"model\.path: empty"):
        plan(model=Model())
    with pytest.raises(UserError, match=r"model\.context_length=1000000: the checkpoint allows 1 to"):
        plan(model=Model(path=TINY.path, context_length=1_000_000))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Parallelism(), Parallelism(tensor=2), Parallelism(pipeline=2)])
async def test_the_shipped_model_answers_the_same_at_every_layout(layout: Parallelism) -> None:
    requests = [request(str(i), f"{i}+3=", max_tokens=6, logprobs=0, prompt_logprobs=0) for i in range(5)]
    with deployments.load(Megatron(), TINY, CPU, optimizations=Optimizations(dtype=Dtype.fp32)) as alone:
        expected = await one_by_one(alone, requests)
        assert alone.reference(list(b"1+1=2")) == pytest.approx(alone.reference(list(b"1+1=2")))
    with deployments.load(Megatron(max_sequences=4), TINY, CPU, layout) as runner:
        assert runner.describe()["world_size"] == layout.world_size
        found = await together(runner, requests)
    for a, b in zip(expected, found, strict=True):
        assert a.ids == b.ids
        for x, y in zip(a.tokens, b.tokens, strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=1e-4)


def test_a_gpu_that_torch_cannot_use_is_refused_in_one_line() -> None:
    import torch

    config = Megatron().decide(deployments.deployed(Megatron(), TINY), replace(CPU, gpus=1)).worker_config
    absent = torch.cuda.device_count()
    with pytest.raises(UserError, match=rf"GPU {absent} of this host is needed; torch .* sees {absent} GPUs"):
        config.torch_device(absent)


def test_graphs_of_a_gpu_are_planned_without_one() -> None:
    asked = Optimizations(cuda_graphs=True, flash_decode=True, dtype=Dtype.bf16)
    engine = Megatron(max_sequences=8)
    decision = engine.decide(deployments.deployed(engine, TINY, optimizations=asked), replace(CPU, gpus=1))
    graphs = decision.worker_config.graphs
    assert graphs is not None
    assert list(graphs.rows) == [1, 2, 4, 8]
    assert decision.worker_config.block_size == (flash.PAGE_MULTIPLE if flash.installed() else 16)
