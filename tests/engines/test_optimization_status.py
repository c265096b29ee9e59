"""Which optimizations are active, for every device and type."""

from __future__ import annotations

import pytest

from launcher.core.errors import UserError
from launcher.engines.optimization_status import as_json, is_active, resolve, resolve_dtype
from launcher.engines.runtime import decode_kernels, flash
from launcher.settings.model import Dtype, Optimizations

ALL = Optimizations(cuda_graphs=True, flash_decode=True, flash_attention=True)
GPU_ONLY = ["cuda_graphs", "flash_decode", "flash_attention"]


def reason(name: str, dtype: Dtype, device: str, asked: Optimizations = ALL, **obstacles: str) -> str:
    return next(s.reason for s in resolve(asked, dtype, device, obstacles) if s.name == name)


def test_auto_is_float32_on_cpu_and_the_stored_type_on_gpu() -> None:
    assert resolve_dtype(Dtype.auto, Dtype.bf16, "cpu") is Dtype.fp32
    assert resolve_dtype(Dtype.auto, Dtype.bf16, "cuda") is Dtype.bf16
    assert resolve_dtype(Dtype.fp16, Dtype.bf16, "cpu") is Dtype.fp16


@pytest.mark.parametrize("name", GPU_ONLY)
def test_what_a_cpu_cannot_do_is_inactive_with_the_reason(name: str) -> None:
    found = as_json(resolve(ALL, Dtype.bf16, "cpu", {}))[name]
    assert found == {"asked": True, "active": False, "reason": "needs an NVIDIA GPU; this runs on CPU"}


@pytest.mark.parametrize(
    ("name", "dtype", "expected", "why"),
    [
        ("flash_attention", Dtype.bf16, True, "for prompts that are computed in one chunk"),
        ("flash_attention", Dtype.fp32, False, "needs bf16 or fp16; this runs in fp32"),
        ("flash_decode", Dtype.fp32, False, "needs bf16 or fp16; this runs in fp32"),
        ("cuda_graphs", Dtype.bf16, True, "for decode steps"),
        ("cuda_graphs", Dtype.fp32, True, "for decode steps"),
    ],
)
def test_on_a_gpu_the_type_of_the_weights_decides(name: str, dtype: Dtype, expected: bool, why: str) -> None:
    assert is_active(resolve(ALL, dtype, "cuda", {}), name) is expected
    assert reason(name, dtype, "cuda") == why


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("flash_attn", "flash-attn's kernel over the paged cache"),
        ("triton", "a Triton kernel over the paged cache"),
        ("", "needs the package flash-attn, or triton, which torch for CUDA brings; neither is installed"),
    ],
)
def test_flash_decode_takes_the_kernel_that_is_installed(
    package: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (flash, decode_kernels):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name == package else None)
    assert reason("flash_decode", Dtype.bf16, "cuda") == expected


def test_a_reason_of_the_model_comes_first() -> None:
    assert reason("cuda_graphs", Dtype.bf16, "cuda", cuda_graphs="it has experts") == "it has experts"
    assert reason("flash_decode", Dtype.bf16, "cpu", flash_decode="heads too wide") == "heads too wide"


@pytest.mark.parametrize("name", ["flash_decode", "flash_attention"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_excludes_each_other_is_refused(name: str, device: str) -> None:
    asked = Optimizations(dtype=Dtype.fp32, **{name: True})
    with pytest.raises(UserError, match=rf"optimizations\.{name}=true: needs optimizations\.dtype=bf16, fp16 or auto"):
        resolve(asked, Dtype.fp32, device, {})


def test_a_quantised_cache_is_not_offered_and_the_plan_says_why() -> None:
    found = as_json(resolve(ALL, Dtype.bf16, "cuda", {}))["quantised_kv"]
    assert found["active"] is False
    assert "megatron-core 0.16.1" in str(found["reason"])


def test_what_was_not_asked_for_is_not_active() -> None:
    switches = resolve(Optimizations(prefix_caching=False), Dtype.bf16, "cuda", {})
    assert [s.name for s in switches if s.active] == ["dtype"]


def test_batch_invariance_disables_what_speeds_batches_up() -> None:
    asked = Optimizations(cuda_graphs=True, flash_decode=True, batch_invariant=True)
    found = as_json(resolve(asked, Dtype.bf16, "cuda", {}))
    assert found["batch_invariant"]["active"]
    for name in ("cuda_graphs", "flash_decode"):
        assert not found[name]["active"]
        assert "batch_invariant" in found[name]["reason"]


def test_an_engine_without_batch_invariance_reports_it_and_keeps_the_rest() -> None:
    asked = Optimizations(cuda_graphs=True, batch_invariant=True)
    found = as_json(resolve(asked, Dtype.bf16, "cuda", {"batch_invariant": "it has experts"}))
    assert found["batch_invariant"] == {"asked": True, "active": False, "reason": "it has experts"}
    assert found["cuda_graphs"]["active"]
