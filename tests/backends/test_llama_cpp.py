"""The command of llama-cpp-python's server."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.llama_cpp import LlamaCpp
from launcher.core.errors import UserError
from tests.backends.presets import deployment, flags, planned
from tests.checkpoints.test_gguf import written


def test_llama_cpp_needs_a_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a megatron_bridge checkpoint; backend=llama_cpp reads \.gguf files"):
        planned(LlamaCpp(), deployment(tmp_path))
    file = written(tmp_path / "model.gguf")
    plan = planned(LlamaCpp(), deployment(tmp_path, str(file), context_length=64))
    command = plan["command"]
    assert plan["dtype"] == "the server's choice"
    assert flags(command, "--model", "--n_ctx", "--model_alias") == {
        "--model": str(file), "--n_ctx": "64", "--model_alias": "tiny",
    }  # fmt: skip
