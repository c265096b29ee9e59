"""What a job's signals do: the run ends as on Ctrl-C, and its children live until it stops them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from launcher.allocation import Allocation
from launcher.cluster import Resources
from launcher.core import INTERRUPTED
from launcher.errors import UserError
from launcher.submission.inside import again, enough

PROGRAM = """
import subprocess, sys, time
from launcher.submission.inside import Signals

signals = Signals()
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


@pytest.mark.parametrize(
    ("warned", "codes", "restarts", "expected"),
    [
        (True, [0, INTERRUPTED], 0, True),
        (True, [INTERRUPTED], 2, True),
        (True, [INTERRUPTED], 3, False),  # often enough
        (True, [0], 0, False),  # all was done when the warning came
        (False, [INTERRUPTED], 0, False),  # cancelled
        (False, [1], 0, False),  # a wrong configuration, or too little memory for the server
        (True, [1], 0, False),
    ],
)
def test_only_a_job_whose_time_is_over_is_queued_again(
    warned: bool, codes: list[int], restarts: int, expected: bool
) -> None:
    assert again(warned, codes, restarts, requeues=3) is expected


def test_a_job_that_was_given_less_than_it_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Allocation(nodes=("a", "b"), rank=0, world_size=4, cpus=2, gpus=2)
    asked = Resources(cpus=2, gpus=2, nodes=2, tasks=2)
    monkeypatch.setenv("HF_TOKEN", "x")
    enough(asked, found, ["HF_TOKEN"])
    with pytest.raises(UserError, match="asked for 4 GPUs and sees 2"):
        enough(Resources(cpus=2, gpus=4, nodes=2, tasks=2), found, [])
    with pytest.raises(UserError, match="2 nodes with 1 tasks each and has 4 tasks"):
        enough(Resources(cpus=2, gpus=2, nodes=2, tasks=1), found, [])
    with pytest.raises(UserError, match=r"cluster\.environment: NOT_THERE"):
        enough(asked, found, ["HF_TOKEN", "NOT_THERE"])
