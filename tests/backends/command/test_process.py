"""A command's processes when the launcher itself is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.running import living, wait_for

DETACHED = "setsid sh -c ': > up; exec sleep 300' & exec sleep 300"
"""Its child has a session of its own, and gets another parent when this one exits."""
START = f"""
import os, sys
from pathlib import Path
from launcher.backends.command.process import managed_process
with managed_process(["/bin/sh", "-c", {DETACHED!r}], os.environ, Path("log"), 20):
    sys.stdin.read()
"""


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, text=True) as launcher:
        wait_for((tmp_path / "up").exists, launcher, 30)
        started = psutil.Process(launcher.pid).children(recursive=True)
        assert len(started) >= 3
        launcher.kill()
    psutil.wait_procs(started, timeout=30)
    assert not living(started)
