"""llama-cpp-python's server: its command, and the shipped model behind the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.backends.command.process import free_port
from launcher.backends.llama_cpp import NEUTRAL, LlamaCpp
from launcher.core.errors import HttpError
from launcher.core.http import fetch
from tests.backends.presets import GPU, ROOT, deployment, flags, planned
from tests.checkpoints.test_gguf import written
from tests.running import wait_for

PYTHON = os.environ.get("LLAMA_CPP", "")


def test_settings_become_flags(tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf")
    plan = planned(LlamaCpp(), deployment(tmp_path, str(file), context_length=64))
    command = plan["command"]
    assert plan["dtype"] == "the server's choice"
    assert flags(command, "--model", "--n_ctx", "--model_alias", "--interrupt_requests") == {
        "--model": str(file), "--n_ctx": "64", "--model_alias": "tiny", "--interrupt_requests": "false",
    }  # fmt: skip


def test_all_layers_are_on_the_gpu_where_there_is_one(tmp_path: Path) -> None:
    served = deployment(tmp_path, str(written(tmp_path / "model.gguf")))
    assert "--n_gpu_layers" not in planned(LlamaCpp(), served)["command"]
    command = planned(LlamaCpp(arguments="--n_gpu_layers 8"), served, GPU)["command"]
    assert command[-4:] == ["--n_gpu_layers", "-1", "--n_gpu_layers", "8"]  # the last counts


def test_its_module_is_started_with_neutral_sampling(tmp_path: Path) -> None:
    served = deployment(tmp_path, str(written(tmp_path / "model.gguf")))
    command = planned(LlamaCpp(program="/opt/llama/bin/python -m llama_cpp.server"), served)["command"]
    assert command[:3] == ["/opt/llama/bin/python", str(NEUTRAL), "--model"]
    command = planned(LlamaCpp(program="my-server --verbose true"), served)["command"]
    assert command[:4] == ["my-server", "--verbose", "true", "--model"]


@pytest.mark.soak
@pytest.mark.skipif(not PYTHON, reason="`make soak` installs llama-cpp-python and sets LLAMA_CPP to its Python")
def test_the_shipped_model_is_converted_certified_and_scored_as_by_the_own_engine(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "launch.py", "backend=llama_cpp", f"backend.cache={tmp_path / 'cache'}"),
        *(f'backend.program="{PYTHON} -m llama_cpp.server"', "tasks=[addition,sequences]"),
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    scores = {task: next(iter(each["metrics"].values()))["value"] for task, each in found["tasks"].items()}
    assert scores == pytest.approx({"addition": 0.9333, "sequences": 0.8283}, abs=1e-4)
    assert (found["engine"]["engine"], found["engine"]["version"]) == ("llama-cpp-python", "0.3.36")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[str]:
    """The server as its users start it, with the shipped model; its URL."""
    folder, port = tmp_path / "gguf", free_port("127.0.0.1", 0)
    convert = ["mode=convert", "convert.format=gguf", f"convert.path={folder}", f"hydra.run.dir={tmp_path / 'convert'}"]
    subprocess.run([sys.executable, "launch.py", *convert], cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.gguf")
    server = [PYTHON, "-m", "llama_cpp.server", "--model", str(file), "--port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(server, stdout=log, stderr=log, text=True) as process:
        try:
            wait_for(lambda: answers(port), process, 250)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        return fetch("GET", f"http://127.0.0.1:{port}/v1/models", timeout_s=60).status == 200
    except HttpError:
        return False


@pytest.mark.soak
@pytest.mark.skipif(not PYTHON, reason="`make soak` installs llama-cpp-python and sets LLAMA_CPP to its Python")
def test_one_that_runs_already_takes_the_ids_of_requests(running: str, tmp_path: Path) -> None:
    run = ["backend=external", f"backend.url={running}", "adapters=[retry,payload]", "model=none"]
    run += ["+adapters.payload.add.repeat_penalty=1.0", "evaluate.concurrency=1", "tasks=[sequences]"]
    run += ["validate.skip=[greedy_is_best]"]  # the certificate is about the server without adapters
    command = [sys.executable, "launch.py", *run, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["sequences"]
    assert found["metrics"]["exact_match"]["value"] == pytest.approx(0.8283, abs=1e-4)
