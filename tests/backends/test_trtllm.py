"""The command of TensorRT-LLM."""

from __future__ import annotations

from pathlib import Path

from launcher.backends.trtllm import TensorRTLLM
from launcher.settings.model import Parallelism
from tests.backends.presets import assert_flags, deployment


def test_settings_become_flags(tmp_path: Path) -> None:
    served = deployment(tmp_path, parallelism=Parallelism(tensor=2, pipeline=3), context_length=128)
    expected = {
        **{"--tp_size": "2", "--pp_size": "3", "--max_seq_len": "128"},
        "--kv_cache_free_gpu_memory_fraction": "0.5",
    }
    assert_flags(TensorRTLLM(memory_fraction=0.5), served, expected)
