"""Remove what a process leaves behind when it is killed, from a cleanup process that outlives it."""

# The cleanup process runs this file in a Python without site-packages: standard library only.
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from launcher.core import processes

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")


class Leftovers(NamedTuple):
    """A private folder with the processes whose program is in it.

    To these belong the processes of ``session`` (0: none). Names of shared memory segments begin with
    ``shared_memory`` (empty: none).
    """

    folder: str
    session: int = 0
    shared_memory: str = ""

    def remove(self) -> None:
        """Kill the processes, then remove the folder and the shared memory."""
        if self.session:
            processes.kill_session(self.session)
        processes.kill_started_from(Path(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)
        for segment in SHARED_MEMORY.glob(f"{self.shared_memory}*") if self.shared_memory else ():
            segment.unlink(missing_ok=True)


def isolated(module: str, *arguments: str) -> list[str]:
    """Return the command that calls ``main(*arguments)`` of a module in a Python that starts within milliseconds.

    It reads no environment variable of Python and no site-packages: ``module`` may import the standard library and
    modules of the launcher that do the same.
    """
    code = f"import sys; sys.path.append(sys.argv.pop(1)); from {module} import main; main(*sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-c", code, os.fspath(ROOT), *arguments]


@contextmanager
def removed_on_exit(leftovers: Leftovers) -> Iterator[None]:
    """Remove ``leftovers`` on exit; a cleanup process removes them if this process is killed."""
    process = subprocess.Popen(
        isolated(__name__, leftovers.folder, str(leftovers.session), leftovers.shared_memory),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        leftovers.remove()
        process.communicate()


def main(folder: str, session: str, shared_memory: str) -> None:
    """Wait for the end of standard input, which ends with the parent, and remove the leftovers."""
    sys.stdin.read()
    Leftovers(folder, int(session), shared_memory).remove()
