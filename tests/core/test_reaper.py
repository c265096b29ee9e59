"""The reaper with real processes: whether it, its command or its parent ends, none of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.core import reaped
from launcher.core.cleanup import isolated
from tests.running import living

SHELL = "/bin/sh"
STUBBORN = "trap '' TERM; : > up; while true; do sleep 0.1; done"
"""It ignores SIGTERM."""
DETACHED = "setsid sh -c ': > up; exec sleep 300' & exec sleep 300"
"""What it starts is in a session of its own, and has another parent as soon as this one has gone."""


@contextmanager
def reaper(folder: Path, script: str, stop_timeout_s: float = 20) -> Iterator[subprocess.Popen[bytes]]:
    command = isolated("launcher.core.reaper", str(stop_timeout_s), SHELL, "-c", script)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as reaper:
        try:
            yield reaper
        finally:
            reaper.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(folder: Path, reaper: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Wait until the script is there with all that it starts."""
    until((folder / "up").exists)
    return psutil.Process(reaper.pid).children(recursive=True)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_its_exit_code_is_the_servers(tmp_path: Path, script: str, code: int) -> None:
    with reaper(tmp_path, script) as started:
        assert started.wait(30) == code


def test_a_program_that_does_not_exist_is_said(tmp_path: Path) -> None:
    command = isolated("launcher.core.reaper", "1", "no-such-program")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.wait(30) == 127  # its input is open: the launcher is there
        assert started.stderr is not None
        assert started.stderr.read() == "no-such-program: No such file or directory\n"


def test_the_server_may_end_in_its_own_way(tmp_path: Path) -> None:
    with reaper(tmp_path, "trap 'touch ended; exit 5' TERM; : > up; while true; do sleep 0.05; done") as started:
        family(tmp_path, started)
        assert started.stdin is not None
        started.stdin.close()
        assert started.wait(30) == 5
    assert (tmp_path / "ended").exists()


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with reaper(tmp_path, STUBBORN, stop_timeout_s=0.3) as started:
        there = family(tmp_path, started)
        assert started.stdin is not None
        started.stdin.close()
        assert started.wait(30) == 137
    assert not [each for each in there if each.is_running()]


@pytest.mark.parametrize("end", ["closed", "by itself"])
def test_what_went_away_from_its_parent_ends_too(tmp_path: Path, end: str) -> None:
    with reaper(tmp_path, DETACHED) as started:
        there = family(tmp_path, started)
        assert len({os.getsid(each.pid) for each in there}) == 2
        if end == "closed":
            assert started.stdin is not None
            started.stdin.close()
        else:
            next(each for each in there if each.ppid() == started.pid).kill()
        assert started.wait(30) == (143 if end == "closed" else 137)
    assert not [each for each in there if each.is_running()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_for_the_launcher(tmp_path: Path, number: int) -> None:
    with reaper(tmp_path, ": > up; sleep 300") as started:
        there = family(tmp_path, started)
        started.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(0.7)
        assert all(each.is_running() for each in there)
        assert started.stdin is not None
        started.stdin.close()
        started.wait(30)


def test_when_the_reaper_is_killed_the_server_goes_with_it(tmp_path: Path) -> None:
    with reaper(tmp_path, ": > up; exec sleep 300") as started:
        there = family(tmp_path, started)
        started.kill()
    until(lambda: not living(there))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_what_a_reaper_that_is_killed_or_stopped_leaves_behind_is_ended(tmp_path: Path, number: int) -> None:
    """A shell starts the real server; it lives in a session of its own, and ends with neither of its parents."""
    script = f"cd {tmp_path}; {DETACHED}"
    with (tmp_path / "log").open("wb") as log:
        started = reaped.start([SHELL, "-c", script], os.environ, log, 0.5)
    try:
        there = family(tmp_path, started)
        started.send_signal(number)
    finally:
        reaped.end(started, 0.5)
    psutil.wait_procs(there, timeout=60)
    assert len(there) > 1
    assert not living(there)
