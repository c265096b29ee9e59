"""What a job's signals do: the run ends as on Ctrl-C, and its children live until it stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.core import files
from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED
from launcher.distributed.allocation import Allocation
from launcher.settings.cluster import Resources
from launcher.slurm import job_files
from launcher.slurm.job_main import check_allocation, should_requeue

PROGRAM = """
import subprocess, sys, time
from launcher.slurm.job_main import JobSignals

signals = JobSignals()
signals.listen()
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
try:
    print(child.pid, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.stdin.readline()
    child.communicate(b"\\n")
    print(signals.warned, child.returncode, flush=True)
"""


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([signal.SIGUSR2], "True 0"), ([signal.SIGTERM], "False 0"), ([signal.SIGTERM, signal.SIGUSR2], "True 0")],
)
def test_a_signal_ends_the_run_and_not_its_children(numbers: list[signal.Signals], expected: str) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for number in numbers:
            process.send_signal(number)
            if number is signal.SIGUSR2:
                subprocess.run(["kill", f"-{int(number)}", str(child)], check=True)
        said, _ = process.communicate("\n", timeout=60)
    assert said.strip() == expected


JOB = """
import os, signal, sys
from pathlib import Path

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # as a job begins
os.kill(os.getpid(), signal.SIGUSR2)

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from launcher.core.files import conf_folder
from launcher.settings.cluster import Resources
from launcher.slurm.job_main import run_job
from launcher.pipeline.config import ComposedRun

given = ["engine=echo", "model=none", "tasks=[addition]", "cluster=slurm", "engine.latency_s=9"]
with initialize_config_dir(str(conf_folder()), version_base="1.3"):
    cfg = compose("config", given)
run, config = OmegaConf.to_object(cfg), OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
work = [ComposedRun(run, config, given, Path(folder)) for folder in sys.argv[2:]]
run_job(work, Resources(cpus=1, gpus=0), requeues=int(sys.argv[1]))
"""


@pytest.mark.parametrize(("requeues", "requeue", "outcome"), [(1, "7", None), (0, None, INTERRUPTED)])
def test_a_warning_that_came_before_the_run_listens_ends_it_in_order(
    tmp_path: Path, requeues: int, requeue: str | None, outcome: int | None
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    # In a container there is no scontrol: what is to be queued again is a file.
    environment = os.environ | {"SLURM_JOB_ID": "7", "PATH": str(tmp_path)}
    arguments = [sys.executable, "-c", JOB, str(requeues), *map(str, folders)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == INTERRUPTED, done.stderr
    assert "Traceback" not in done.stderr
    assert files.read_json(folders[0] / "slurm" / "requeue") == requeue
    assert [job_files.exit_code(folder, "7") for folder in folders] == [outcome, outcome]


@pytest.mark.parametrize(
    ("warned", "left", "restarts", "expected"),
    [
        (True, 2, 0, True),
        (True, 1, 2, True),
        (True, 1, 3, False),  # often enough
        (True, 0, 0, False),  # all was done when the warning came, or failed
        (False, 1, 0, False),  # cancelled
        (False, 0, 0, False),
    ],
)
def test_only_a_job_whose_time_is_over_is_queued_again(warned: bool, left: int, restarts: int, expected: bool) -> None:
    assert should_requeue(warned, left, restarts, requeues=3) is expected


def test_a_job_that_was_given_less_than_it_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Allocation(nodes=("a", "b"), rank=0, world_size=4, cpus=2, gpus=2)
    asked = Resources(cpus=2, gpus=2, nodes=2, tasks=2)
    monkeypatch.setenv("HF_TOKEN", "x")
    check_allocation(asked, found, ["HF_TOKEN"])
    with pytest.raises(UserError, match="requested 4 GPUs and sees 2"):
        check_allocation(Resources(cpus=2, gpus=4, nodes=2, tasks=2), found, [])
    with pytest.raises(UserError, match="2 nodes with 1 tasks each and has 4 tasks"):
        check_allocation(Resources(cpus=2, gpus=2, nodes=2, tasks=1), found, [])
    with pytest.raises(UserError, match=r"cluster\.environment: NOT_THERE"):
        check_allocation(asked, found, ["HF_TOKEN", "NOT_THERE"])
