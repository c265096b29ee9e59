"""The command of vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.vllm import VLLM
from launcher.core.errors import UserError
from launcher.settings.model import Parallelism, ToolCallParser
from tests.backends.presets import GPU, assert_flags, deployment, flags, planned


def test_settings_become_flags(tmp_path: Path) -> None:
    served = deployment(tmp_path, parallelism=Parallelism(tensor=2, pipeline=3), context_length=128)
    expected = {
        **{"--tensor-parallel-size": "2", "--pipeline-parallel-size": "3", "--data-parallel-size": "2"},
        **{"--gpu-memory-utilization": "0.5", "--max-logprobs": "40", "--max-model-len": "128"},
        **{"--served-model-name": "tiny", "--dtype": "bfloat16", "--generation-config": "vllm"},
    }
    assert_flags(VLLM(data_parallel=2, memory_fraction=0.5, max_logprobs=40), served, expected)


def test_what_is_not_set_costs_no_flag(tmp_path: Path) -> None:
    plan = planned(VLLM(), deployment(tmp_path))
    assert [word for word in plan["command"] if "parallel" in word or "memory" in word or "max-model" in word] == []
    assert flags(plan["command"], "--dtype") == {"--dtype": "float32"}  # on a CPU, as with the launcher's own engines


def test_a_parser_of_tool_calls_gets_the_switch_that_it_needs(tmp_path: Path) -> None:
    command = planned(VLLM(), deployment(tmp_path, tool_call_parser=ToolCallParser.hermes))["command"]
    start = command.index("--enable-auto-tool-choice")
    assert command[start : start + 3] == ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    for parser in (ToolCallParser.auto, ToolCallParser.none):
        command = planned(VLLM(), deployment(tmp_path, tool_call_parser=parser))["command"]
        assert "--tool-call-parser" not in command


def test_vllm_spreads_experts_over_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"parallelism.expert=2: backend=vllm spreads .* expected 1 or 4"):
        planned(VLLM(), deployment(tmp_path, parallelism=Parallelism(tensor=4, expert=2)), GPU)
