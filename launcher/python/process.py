"""Starts the command line's program for a Python call, shows its progress, and ends it in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from launcher.core.run_folder import RunFolder
from launcher.python.errors import LauncherError

ROOT = str(Path(__file__).resolve().parents[2])
START = (
    "import sys; root, told = sys.argv[1:3]; root in sys.path or sys.path.insert(0, root); "
    "from launcher.python.child import main; main(int(told), sys.argv[3:])"
)
"""What the process runs: the launcher of this process, also if another one is installed."""
ERROR = "launcher: "
"""What a line begins with that says why a run ends."""
LOOK_S = 0.05


class Child:
    """A process that runs a command line.

    The script that called us is not run again, and no event loop or thread of ours reaches it. What it allocates on a
    GPU is free when it ends. It has a process group of its own, so that Ctrl-C reaches it once, from us.
    """

    def __init__(self, arguments: Sequence[str], *, quiet: bool = False) -> None:
        self.folder: Path | None = None
        self.errors: list[str] = []
        self._stderr = None if quiet else sys.stderr
        self._out: list[str] = []
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, ROOT, str(writing), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
                pass_fds=(writing,),
                process_group=0,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            _reader(self.process.stdout, self._out.append),
            _reader(self.process.stderr, self._show),
            _reader(os.fdopen(reading, encoding="utf-8"), self._told),
        ]

    def wait(self) -> int:
        """Wait for the end and return the exit code. An interrupt is passed on, and raised again once all has ended."""
        try:
            code = self.process.wait()
        except BaseException:
            self.end()
            raise
        self._drain()
        return code

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition; False if the process ends before. An interrupt ends the process."""
        try:
            while not condition():
                if self.process.poll() is not None:
                    self._drain()
                    return bool(condition())
                time.sleep(LOOK_S)
        except BaseException:
            self.end()
            raise
        return True

    def end(self) -> int:
        """Interrupt the process, as Ctrl-C would, and wait; a second interrupt kills it. Return the exit code."""
        try:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGINT)
            code = self.process.wait()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._drain()
        return code

    @property
    def output(self) -> str:
        """What it printed on standard output."""
        return "".join(self._out)

    @property
    def reason(self) -> str:
        """Why it ended: the last line that says so."""
        told = [line.removeprefix(ERROR) for line in self.errors if line.startswith(ERROR)]
        last = told or [line for line in self.errors if line.strip()]
        return last[-1] if last else f"the run ended with exit code {self.process.returncode} and said nothing"

    def show_errors(self) -> None:
        """Show the lines that were held back because an error would repeat them."""
        for line in self.errors:
            if line.startswith(ERROR):
                self._write(line + "\n")

    def _drain(self) -> None:
        for reader in self._readers:
            reader.join()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _show(self, line: str) -> None:
        self.errors.append(line.rstrip("\n"))
        if not line.startswith(ERROR):
            self._write(line)

    def _write(self, text: str) -> None:
        if self._stderr is not None:
            with suppress(OSError, ValueError):  # a notebook or a redirection may have closed it
                self._stderr.write(text)
                self._stderr.flush()

    def _told(self, line: str) -> None:
        self.folder = Path(json.loads(line))


def export(folder: Path, formats: Sequence[str], out: str | Path | None) -> Path:
    """Run ``launcher export``: the packages of other programs stay out of this process. Raises `LauncherError`."""
    place = Path(out) if out is not None else RunFolder(folder).export
    child = Child(["export", str(folder), "--to", ",".join(formats), "--out", str(place)], quiet=True)
    if code := child.wait():
        raise LauncherError(child.reason, code)
    return place


def _reader(stream: IO[str], take: Callable[[str], object]) -> threading.Thread:
    def read() -> None:
        with stream:
            for line in stream:
                take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
