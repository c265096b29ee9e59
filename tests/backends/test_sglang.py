"""The command of SGLang."""

from __future__ import annotations

from pathlib import Path

from launcher.backends.sglang import SGLang
from launcher.settings.model import Parallelism
from tests.backends.presets import assert_flags, deployment


def test_settings_become_flags(tmp_path: Path) -> None:
    parallelism = Parallelism(tensor=2, pipeline=3)
    expected = {
        **{"--tp-size": "2", "--pp-size": "3", "--dp-size": "2"},
        **{"--mem-fraction-static": "0.5", "--context-length": "128", "--dtype": "bfloat16"},
        **{"--served-model-name": "tiny", "--sampling-defaults": "openai"},
    }
    served = deployment(tmp_path, parallelism=parallelism, context_length=128)
    assert_flags(SGLang(data_parallel=2, memory_fraction=0.5), served, expected)
