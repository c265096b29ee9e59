"""A run folder belongs to the session that began last; the one before stops and writes no more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.core.errors import TakenOver
from launcher.core.lease import Lease
from launcher.core.run_folder import RunFolder
from tests.running import UNVALIDATED

ROOT = Path(__file__).parents[2]
RUN = ("engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=10")
SLOW = ("engine.latency_s=0.5", "evaluate.concurrency=1", UNVALIDATED)


def test_a_lease_holds_until_another_is_taken(tmp_path: Path) -> None:
    first = Lease(tmp_path)
    assert first.holds
    second = Lease(tmp_path)
    assert second.holds
    assert not first.holds
    with pytest.raises(TakenOver, match="another session took this run over"):
        first.check()
    second.check()


def test_a_lease_whose_file_is_gone_does_not_hold(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    (tmp_path / "session.json").unlink()
    assert not lease.holds


def test_a_lease_names_its_host_and_process(tmp_path: Path) -> None:
    Lease(tmp_path)
    found = json.loads((tmp_path / "session.json").read_text())
    assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]


def lines(folder: Path) -> int:
    file = folder / "samples.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.soak
def test_a_run_that_is_begun_a_second_time_stops_in_the_first_place(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launch = [sys.executable, str(ROOT / "launch.py")]
    given = [*launch, *RUN, *SLOW, f"hydra.run.dir={folder}"]
    first = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while lines(folder) < 2:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # as a node that does not answer for a while
        second = subprocess.run([*launch, f"resume={folder}"], capture_output=True, text=True, timeout=120)
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 1
    assert f"launcher: {folder}: another session took this run over" in said
    assert "Traceback" not in said
    assert second.returncode == 0, second.stderr
    found = list(RunFolder(folder).records())
    assert len(found) == len({one.key for one in found}) == lines(folder) == 10
    assert json.loads((folder / "results.json").read_text())["status"] == "ok"
    assert not (folder / "endpoint.json").exists()
