"""The estimate of a rank's memory is what its process keeps resident."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from launcher.engines.megatron.layout import packed_output_bytes
from launcher.engines.runtime import linear
from launcher.settings.model import Dtype, Parallelism
from tests.engines.megatron.tiny_models import TINY

APART = 0.1
"""The share by which what is measured may differ: buffers of megatron-core, and the allocator's own."""
LARGE = replace(TINY, vocab_size=32_000, hidden_size=64)


@pytest.mark.slow
@pytest.mark.skipif(not linear.FAST, reason="weights are packed on CPUs with AVX-512 only")
@pytest.mark.parametrize("output", ["tied", "apart"])
def test_the_estimate_is_what_stays_resident(output: str) -> None:
    command = [sys.executable, "-m", "tests.engines.megatron.memory_growth", output]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["grown"] == pytest.approx(found["estimate"], rel=APART)
    assert found["packed"] > 2 * APART * found["estimate"]


@pytest.mark.parametrize(
    ("dtype", "device", "tensor", "expected"),
    [
        (Dtype.fp32, "cpu", 1, 4 * 32_000 * 64),
        (Dtype.bf16, "cpu", 1, 2 * 32_000 * 64),
        (Dtype.fp32, "cpu", 2, 4 * 16_000 * 64),
        (Dtype.fp16, "cpu", 1, 0),
        (Dtype.fp32, "cuda", 1, 0),
    ],
)
def test_the_packed_output_layer(dtype: Dtype, device: str, tensor: int, expected: int) -> None:
    assert packed_output_bytes(LARGE, Parallelism(tensor=tensor), dtype, device) == expected


def test_a_small_output_layer_is_not_packed() -> None:
    assert packed_output_bytes(TINY, Parallelism(), Dtype.fp32, "cpu") == 0
