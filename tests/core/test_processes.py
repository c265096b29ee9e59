"""Processes are found by their parent, their session and their program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.core import processes
from launcher.core.processes import wait_for


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[str]]:
    """A shell in a session of its own, whose child is ``sleep``."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "sleep 300 & echo up; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        processes.kill_session(process.pid)


def test_a_process_has_its_parent_and_its_session(leader: subprocess.Popen[str]) -> None:
    assert processes.find(leader.pid) == (leader.pid, os.getpid(), leader.pid, True)
    assert leader.pid in processes.children(os.getpid())
    (child,) = processes.children(leader.pid)
    assert wait_for(lambda: processes.name(child) == "sleep", 10)
    assert {leader.pid, child} <= set(processes.descendants(os.getpid()))
    assert set(processes.in_session(leader.pid)) == {leader.pid, child}


def test_a_session_ends_also_after_its_leader(leader: subprocess.Popen[str]) -> None:
    (child,) = processes.children(leader.pid)
    leader.kill()
    leader.wait()
    assert processes.find(leader.pid) is None
    assert processes.name(leader.pid) == ""
    assert processes.in_session(leader.pid) == [child]
    processes.kill_session(leader.pid)
    assert not processes.in_session(leader.pid)


def test_a_zombie_does_not_run(leader: subprocess.Popen[str]) -> None:
    processes.kill_with_children(leader.pid)
    assert wait_for(lambda: not processes.is_running(leader.pid), 10)
    assert processes.find(leader.pid) is not None
    assert wait_for(lambda: not processes.in_session(leader.pid), 10)


@pytest.mark.parametrize("name", ["program", "with space) S 1 (", "ends\n"])
def test_programs_are_found_by_their_folder(tmp_path: Path, name: str) -> None:
    """The kernel writes a program's name as it is, between parentheses."""
    shutil.copy("/bin/sleep", tmp_path / name)
    with subprocess.Popen([tmp_path / name, "300"]) as process:
        assert wait_for(lambda: processes.started_from(tmp_path) == [process.pid], 10)
        assert processes.started_from(tmp_path, name) == [process.pid]
        assert not processes.started_from(tmp_path, "other")
        assert not processes.started_from(tmp_path / name)
        assert processes.is_running(process.pid)
        processes.kill_started_from(tmp_path)
        assert not processes.started_from(tmp_path)
        assert process.wait(10) == -9
