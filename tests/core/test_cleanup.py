"""What a killed process leaves behind is removed by its cleanup process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.core import processes
from launcher.core.cleanup import SHARED_MEMORY, Leftovers, removed_on_exit
from launcher.core.processes import wait_for

HOLD = """
import sys
from launcher.core.cleanup import Leftovers, removed_on_exit
with removed_on_exit(Leftovers(sys.argv[1], int(sys.argv[2]), sys.argv[3])):
    print("up", flush=True)
    sys.stdin.read()
"""
Holder = subprocess.Popen[str]


@pytest.mark.parametrize("end", [lambda holder: holder.stdin.close(), Holder.kill], ids=["closed", "killed"])
def test_processes_folder_and_shared_memory_are_removed(tmp_path: Path, end: Callable[[Holder], None]) -> None:
    folder, prefix = tmp_path / "folder", f"launcher-test-{tmp_path.name}-"
    folder.mkdir()
    segment, program = SHARED_MEMORY / f"{prefix}1", folder / "program"
    segment.touch()
    shutil.copy("/bin/sleep", program)
    with (
        subprocess.Popen([program, "300"], start_new_session=True) as inside,
        subprocess.Popen(["/bin/sleep", "300"], start_new_session=True) as session,
        subprocess.Popen(
            [sys.executable, "-c", HOLD, folder, str(session.pid), prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        assert processes.is_running(inside.pid)
        assert processes.is_running(session.pid)
        end(holder)
        assert inside.wait(30) == session.wait(30) == -9
    assert wait_for(lambda: not folder.exists() and not segment.exists(), 30)


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    segment = SHARED_MEMORY / f"launcher-test-{tmp_path.name}"
    segment.touch()
    try:
        with subprocess.Popen(["/bin/sleep", "300"]) as process:
            with removed_on_exit(Leftovers(str(tmp_path / "folder"))):
                pass
            assert processes.is_running(process.pid)
            process.kill()
        assert segment.exists()
        assert tmp_path.exists()
        assert not (tmp_path / "folder").exists()
    finally:
        segment.unlink()
