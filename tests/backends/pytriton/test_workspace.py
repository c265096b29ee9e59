from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.backends.pytriton import usable_workspace
from launcher.backends.pytriton.workspace import shared_memory_prefix, workspace
from launcher.core.cleanup import SHARED_MEMORY
from launcher.core.errors import UserError
from launcher.core.processes import children, started_from, wait_for

HOLD = """
import os, shutil, subprocess, sys
from launcher.backends.pytriton.workspace import workspace
with workspace(sys.argv[1]) as folder:
    shutil.copy("/bin/sleep", folder / "program")
    subprocess.Popen([folder / "program", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Path]:
    """A folder with a short name: long ones are not used."""
    short = Path("/tmp") / f"ws{os.getpid()}{abs(hash(tmp_path)) % 10**6}"
    short.mkdir()
    yield short
    shutil.rmtree(short)


def test_the_folder_is_private_and_gone_afterwards(parent: Path) -> None:
    with workspace(os.fspath(parent)) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "file").touch()
    assert not folder.exists()


def test_two_at_the_same_time_do_not_meet(parent: Path) -> None:
    with workspace(os.fspath(parent)) as one, workspace(os.fspath(parent)) as other:
        assert one != other
        assert one.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [("file", "Not a directory"), ("file/under", "Not a directory"), ("two words", "spaces"), ("long" * 20, "60 char")],
)
def test_a_folder_that_cannot_be_used_is_one_line(parent: Path, name: str, why: str) -> None:
    (parent / "file").touch()
    folder = f"{parent}/{name}"
    with (
        pytest.raises(UserError, match=f"^backend.workspace={folder}: .*{why}.*; must be a folder"),
        usable_workspace(folder),
    ):
        pass


def test_a_folder_from_which_nothing_may_run_is_refused(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton would die with half a page about shared objects."""

    class Noexec:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda _: Noexec())
    with pytest.raises(UserError, match="noexec"), usable_workspace(os.fspath(parent)):
        pass


def test_a_relative_folder_is_one_of_the_working_directory(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parent)
    with usable_workspace("there") as folder:
        assert folder.is_absolute()
        assert folder.is_relative_to(parent)


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD, os.fspath(parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def reap(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_after_sigkill_nothing_is_left(parent: Path) -> None:
    process, folder = holder(parent)
    segment = SHARED_MEMORY / f"{shared_memory_prefix(folder)}test"
    segment.touch()
    assert wait_for(lambda: bool(started_from(folder)), 10)
    reap(process)
    assert wait_for(lambda: not (folder.exists() or started_from(folder) or segment.exists()), 10)


def test_what_was_left_by_the_dead_is_removed_by_the_next(parent: Path) -> None:
    process, folder = holder(parent)
    assert wait_for(lambda: bool(started_from(folder)), 10)
    (cleanup,) = set(children(process.pid)) - set(started_from(folder))
    os.kill(cleanup, signal.SIGKILL)
    reap(process)
    assert folder.exists()
    assert wait_for(lambda: bool(started_from(folder)), 10)
    with workspace(os.fspath(parent)):
        assert not folder.exists()
        assert not started_from(folder)


def test_a_folder_that_others_can_write_is_refused(parent: Path) -> None:
    (parent / f"launcher-pytriton-{os.getuid()}").mkdir(mode=0o777)
    (parent / f"launcher-pytriton-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError, match="open to other users"), workspace(os.fspath(parent)):
        pass
