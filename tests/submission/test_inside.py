"""What a job's signals do: the run ends as on Ctrl-C, and its children live until it stops them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

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
