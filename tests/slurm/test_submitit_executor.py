"""How a job's Python begins."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.slurm.submitit_executor import Executor


@pytest.fixture
def beginning(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a job that waits for what it is to do."""
    command = shlex.split(Executor(tmp_path)._submitit_command_str)
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}
    pipe, said = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, env=os.environ | variables, stdout=pipe, stderr=said, text=True) as process:
        yield process
        process.kill()


def test_a_warning_that_comes_while_python_imports_waits(beginning: subprocess.Popen[str]) -> None:
    assert beginning.stdout is not None
    assert any("Loading pickle" in line for line in beginning.stdout)
    beginning.send_signal(signal.SIGUSR2)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{beginning.pid}/status").read_text().splitlines())
    assert status["State"][0] in "SR"
    assert int(status["ShdPnd"], 16) & 1 << signal.SIGUSR2 - 1
