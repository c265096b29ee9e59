"""What is active is said truly, for every device and type."""

from __future__ import annotations

import pytest

from launcher.engines.switches import active, as_json, resolve, resolve_dtype
from launcher.model import Dtype, Optimizations

ALL = Optimizations(cuda_graphs=True, flash_decode=True, flash_attention=True)


def test_auto_is_float32_on_cpu_and_the_stored_type_on_gpu() -> None:
    assert resolve_dtype(Dtype.auto, Dtype.bf16, "cpu") is Dtype.fp32
    assert resolve_dtype(Dtype.auto, Dtype.bf16, "cuda") is Dtype.bf16
    assert resolve_dtype(Dtype.fp16, Dtype.bf16, "cpu") is Dtype.fp16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["cuda_graphs", "flash_decode"])
def test_what_is_not_implemented_is_never_active(name: str, device: str) -> None:
    found = as_json(resolve(ALL, Dtype.bf16, device))[name]
    assert found == {"asked": True, "active": False, "reason": "not available in this version"}


@pytest.mark.parametrize(
    ("dtype", "device", "expected", "reason"),
    [
        (Dtype.bf16, "cuda", True, "for prompts that are computed in one chunk"),
        (Dtype.fp32, "cuda", False, "needs bf16 or fp16; this runs in fp32"),
        (Dtype.bf16, "cpu", False, "needs an NVIDIA GPU; this runs on CPU"),
    ],
)
def test_flash_attention_needs_a_gpu_and_half_precision(dtype: Dtype, device: str, expected: bool, reason: str) -> None:
    switches = resolve(ALL, dtype, device)
    assert active(switches, "flash_attention") is expected
    assert next(s.reason for s in switches if s.name == "flash_attention") == reason


def test_what_was_not_asked_for_is_not_active() -> None:
    switches = resolve(Optimizations(prefix_caching=False), Dtype.bf16, "cuda")
    assert [s.name for s in switches if s.active] == ["dtype"]
