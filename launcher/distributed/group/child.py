"""Run a Python module as a process that inherits connections, and ends when one of them closes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, Pipe

from launcher.core.errors import StorageError
from launcher.core.logs import LogFile, captured


class Child:
    """A process with a connection to the leader, and a pipe that closes with this process or with `end`."""

    def __init__(
        self, module: str, environment: Mapping[str, str], connection: Connection, log: LogFile | None = None
    ) -> None:
        self._lifeline, end_of_life = Pipe()
        with _output(log, environment) as output:
            self.process = _spawn(module, environment, output, connection, end_of_life)
        end_of_life.close()
        connection.close()

    def end(self, grace_s: float) -> None:
        """Close the pipe, which ends the process; kill it after ``grace_s`` seconds."""
        self._lifeline.close()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _output(log: LogFile | None, environment: Mapping[str, str]) -> Iterator[int]:
    """Yield a descriptor for the output of a process; it goes to standard error where no log can be written."""
    with ExitStack() as stack:
        output = 2
        if log is not None:
            with suppress(StorageError):  # a node that does not share the folder
                output, _ = stack.enter_context(captured(log, os.environ | dict(environment)))
        yield output


def _spawn(
    module: str, environment: Mapping[str, str], output: int, *connections: Connection
) -> subprocess.Popen[bytes]:
    """Start a module with this interpreter and its import path."""
    fds = [connection.fileno() for connection in connections]
    path = os.pathsep.join(p for p in sys.path if p)
    env = os.environ | {"PYTHONPATH": path} | dict(environment)
    command = [sys.executable, "-m", module, *map(str, fds)]
    # A group of its own: Ctrl-C at the terminal is the leader's to handle.
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        command, pass_fds=fds, env=env, stdin=nothing, stdout=output, stderr=output, process_group=0
    )
