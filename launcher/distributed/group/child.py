"""Run a Python module as a process that inherits connections, and ends when one of them closes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe


class Child:
    """A process with a connection to the leader, and a pipe that closes with this process or with `end`."""

    def __init__(self, module: str, environment: Mapping[str, str], connection: Connection) -> None:
        self._lifeline, end_of_life = Pipe()
        self.process = _spawn(module, environment, connection, end_of_life)
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


def _spawn(module: str, environment: Mapping[str, str], *connections: Connection) -> subprocess.Popen[bytes]:
    """Start a module with this interpreter and its import path; its output goes to standard error."""
    fds = [connection.fileno() for connection in connections]
    path = os.pathsep.join(p for p in sys.path if p)
    env = os.environ | {"PYTHONPATH": path} | dict(environment)
    command = [sys.executable, "-m", module, *map(str, fds)]
    # A group of its own: Ctrl-C at the terminal is the leader's to handle.
    return subprocess.Popen(command, pass_fds=fds, env=env, stdin=subprocess.DEVNULL, stdout=2, process_group=0)
