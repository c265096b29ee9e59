"""The command of NVIDIA NIM."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.nim import NIM
from launcher.core.errors import UserError
from launcher.settings.model import Parallelism
from tests.backends.presets import assert_flags, deployment, flags, planned

IMAGE = "nvcr.io/nim/x:2.0.9"


def test_settings_become_flags(tmp_path: Path) -> None:
    served = deployment(tmp_path, parallelism=Parallelism(tensor=2), context_length=128)
    expected = {
        **{"--tensor-parallel-size": "2", "--data-parallel-size": "2", "--gpu-memory-utilization": "0.5"},
        **{"--max-model-len": "128", "--dtype": "bfloat16", "--gpus": "all"},
    }
    assert_flags(NIM(image=IMAGE, memory_fraction=0.5, data_parallel=2), served, expected)


def test_nim_runs_a_container(tmp_path: Path) -> None:
    plan = planned(NIM(image=IMAGE, environment={"A": "b"}), deployment(tmp_path))
    command = plan["command"]
    assert command[:3] == ["docker", "run", "--rm"]
    folder = plan["conversion"]["folder"]
    assert flags(command, "--volume") == {"--volume": f"{folder}:/opt/checkpoint:ro"}
    assert {"NIM_MODEL_PATH=/opt/checkpoint", "NGC_API_KEY", "A=b", "NIM_TELEMETRY_MODE=0"} <= set(command)
    assert command.index(IMAGE) + 1 == command.index("nim-serve")
    with pytest.raises(UserError, match=r"backend.image: backend=nim needs the container's image"):
        planned(NIM(), deployment(tmp_path))


def test_an_image_with_another_server_does_not_get_vllms_flags(tmp_path: Path) -> None:
    image = "nvcr.io/nim/nvidia/sglang-model-free-nim:2.1.6"
    with pytest.raises(UserError, match=rf"backend.image={image}: serves with SGLang"):
        planned(NIM(image=image), deployment(tmp_path))
    assert planned(NIM(image="registry/sglang/vllm-model-free-nim:2.1.6"), deployment(tmp_path))["command"]
