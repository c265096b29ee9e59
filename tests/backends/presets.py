"""What the tests of ready-made servers share: a deployment of the shipped model, and a plan for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.backends.llama_cpp import LlamaCpp
from launcher.backends.nim import NIM
from launcher.backends.preset import Preset
from launcher.backends.sglang import SGLang
from launcher.backends.transformers_serve import TransformersServe
from launcher.backends.trtllm import TensorRTLLM
from launcher.backends.vllm import VLLM
from launcher.distributed.allocation import Allocation, allocate
from launcher.engines.base import Deployment
from launcher.engines.none import Nothing
from launcher.settings.model import Dtype, Model, Optimizations, Parallelism

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "launcher" / "assets" / "tiny")
CPU = allocate()
GPU = Allocation(("localhost",), 0, 1, cpus=4, gpus=16)
PRESETS: Mapping[str, type[Preset]] = {
    "vllm": VLLM,
    "sglang": SGLang,
    "trtllm": TensorRTLLM,
    "llama_cpp": LlamaCpp,
    "transformers_serve": TransformersServe,
    "nim": NIM,
}


def deployment(
    folder: Path, path: str = TINY, parallelism: Parallelism | None = None, dtype: Dtype = Dtype.auto, **model: Any
) -> Deployment:
    optimizations = Optimizations(dtype=dtype)
    chosen = Model("tiny", path, **model)
    return Deployment(chosen, Nothing(), parallelism or Parallelism(), optimizations, folder)


def planned(preset: Preset, served: Deployment, allocation: Allocation = CPU) -> Any:
    preset.cache = str(served.folder / "cache")
    return preset.plan(served, allocation)


def flags(command: list[str], *names: str) -> dict[str, str]:
    return {name: command[command.index(name) + 1] for name in names if name in command}


def assert_flags(preset: Preset, served: Deployment, expected: dict[str, str]) -> None:
    """Plan on four GPUs and compare the flags; nothing is converted or started."""
    plan = planned(preset, served, GPU)
    assert flags(plan["command"], *expected) == expected
    assert plan["environment"]["DO_NOT_TRACK"] == "1"
    assert plan["conversion"]["state"] == "made before the server starts"
    assert not (served.folder / "cache").exists()
