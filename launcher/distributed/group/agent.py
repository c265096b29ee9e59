"""Worker agent: starts child processes on the leader's request; exits with the leader."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation
from launcher.distributed.group import rendezvous, transport
from launcher.distributed.group.child import Child
from launcher.distributed.group.leader import JOIN_TIMEOUT_S
from launcher.distributed.group.messages import ChildConnection, Join, Shutdown, Start, Stop, Stopped, Terminated
from launcher.distributed.group.rendezvous import Rendezvous

POLL_INTERVAL_S = 0.2
CHILD_SHUTDOWN_TIMEOUT_S = 2.0
GROUP_SHUTDOWN_TIMEOUT_S = 20.0
"""How long the leader may take to end the group, once this process got SIGTERM."""
TERMINATED = 128 + signal.SIGTERM


def run_agent(allocation: Allocation, folder: Path | None = None) -> int:
    """Serve the leader whose rendezvous file is in ``folder``; return the exit code, 1 if the leader is lost.

    SIGTERM ends the whole group, in order, through its leader. Raises `UserError` if no leader is found.
    """
    agent = Agent()
    threading.Thread(target=agent.forward_signals, name="signals", daemon=True).start()
    try:
        return agent.run(allocation, rendezvous.file(folder or rendezvous.folder(), allocation))
    except (EOFError, OSError):
        to_stderr(f"launcher: rank {allocation.rank}: rank 0 is lost")
        return 1


class Agent:
    """The connection to the leader, and the child that the leader has requested.

    SIGTERM is blocked and SLURM's warning is ignored, which children inherit: they live until they are stopped.
    """

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGUSR2):  # both reach the leader, too
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._guard = threading.Lock()
        self._control: Connection | None = None

    def forward_signals(self) -> None:
        """Forward SIGTERM to the leader, and exit if the leader does not end the group in time."""
        signal.sigwait({signal.SIGTERM})
        if self._control is not None:
            with suppress(OSError):
                self._send(Terminated())
                time.sleep(GROUP_SHUTDOWN_TIMEOUT_S)
        os._exit(TERMINATED)

    def run(self, allocation: Allocation, path: Path) -> int:
        """Handle the leader's messages until it shuts down. Raises `EOFError` or `OSError` when it is lost."""
        leader, self._control = _join(path)
        self._send(Join(allocation.member()))
        with ExitStack() as stack:
            child: Child | None = None
            while True:
                match self._control.recv():
                    case Start() as request:
                        child = _start(request, leader)
                        stack.callback(child.end, CHILD_SHUTDOWN_TIMEOUT_S)
                    case Stop(grace_s):
                        if child is not None:
                            child.end(grace_s)
                        self._send(Stopped())
                    case Shutdown():
                        return 0

    def _send(self, message: object) -> None:
        assert self._control is not None
        with self._guard:
            self._control.send(message)


def _start(request: Start, leader: Rendezvous) -> Child:
    connection = transport.connect((leader.host, leader.port), leader.secret.encode())
    connection.send(ChildConnection(request.ticket))
    return Child(request.module, request.environment, connection, request.log)


def _join(path: Path) -> tuple[Rendezvous, Connection]:
    """Connect to the leader as soon as it listens; the file of a dead leader leads to no connection."""
    deadline, problem = time.monotonic() + JOIN_TIMEOUT_S, "there is no such file"
    while time.monotonic() < deadline:
        leader = rendezvous.read(path)
        if leader is not None:
            try:
                return leader, transport.connect((leader.host, leader.port), leader.secret.encode())
            except (OSError, EOFError, AuthenticationError) as error:
                problem = f"{leader.host}:{leader.port}: {error}"
        time.sleep(POLL_INTERVAL_S)
    raise UserError(f"no leader was found within {JOIN_TIMEOUT_S:g} s through {path.absolute()}: {problem}")
