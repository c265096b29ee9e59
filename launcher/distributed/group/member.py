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
from launcher.distributed.group.leader import JOIN_S
from launcher.distributed.group.messages import Answer, Ending, Hello, Leave, Start, Stop, Stopped
from launcher.distributed.group.rendezvous import Rendezvous

LOOK_S = 0.2
GRACE_S = 2.0
ENDING_S = 20.0
"""How long the leader may take to end everything, once this process was told to end."""
ENDED = 128 + signal.SIGTERM


def follow(allocation: Allocation, folder: Path | None = None) -> int:
    """Follow the leader that meets in ``folder``; return the exit code, 1 if the leader is gone.

    SIGTERM ends the whole group, in order, through its leader. Raises `UserError` if no leader is found.
    """
    follower = Follower()
    threading.Thread(target=follower.forward_signals, name="signals", daemon=True).start()
    try:
        return follower.follow(allocation, rendezvous.file(folder or rendezvous.folder(), allocation))
    except (EOFError, OSError):
        to_stderr(f"launcher: rank {allocation.rank}: rank 0 is gone")
        return 1


class Follower:
    """What runs beside this process, and whom it follows.

    SIGTERM is blocked and SLURM's warning is ignored, which children inherit: they live until they are told to end.
    """

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGUSR2):  # both reach the leader, too
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._guard = threading.Lock()
        self._control: Connection | None = None

    def forward_signals(self) -> None:
        """Hand SIGTERM to the leader, and end by force if that does not help."""
        signal.sigwait({signal.SIGTERM})
        if self._control is not None:
            with suppress(OSError):
                self._send(Ending())
                time.sleep(ENDING_S)
        os._exit(ENDED)

    def follow(self, allocation: Allocation, path: Path) -> int:
        """Carry out the leader's orders. Raises `EOFError` or `OSError` when it is gone."""
        met, self._control = _joined(path)
        self._send(Hello(allocation.member()))
        with ExitStack() as stack:
            child: Child | None = None
            while True:
                match self._control.recv():
                    case Start() as order:
                        child = _started(order, met)
                        stack.callback(child.end, GRACE_S)
                    case Stop(grace_s):
                        if child is not None:
                            child.end(grace_s)
                        self._send(Stopped())
                    case Leave():
                        return 0

    def _send(self, message: object) -> None:
        assert self._control is not None
        with self._guard:
            self._control.send(message)


def _started(order: Start, met: Rendezvous) -> Child:
    orders = transport.connect((met.host, met.port), met.secret.encode())
    orders.send(Answer(order.ticket))
    return Child(order.module, order.environment, orders)


def _joined(path: Path) -> tuple[Rendezvous, Connection]:
    """Connect to the leader as soon as it listens; what a dead one left behind does not count."""
    deadline, problem = time.monotonic() + JOIN_S, "there is no such file"
    while time.monotonic() < deadline:
        met = rendezvous.read(path)
        if met is not None:
            try:
                return met, transport.connect((met.host, met.port), met.secret.encode())
            except (OSError, EOFError, AuthenticationError) as error:
                problem = f"{met.host}:{met.port}: {error}"
        time.sleep(LOOK_S)
    raise UserError(f"no leader was found in {JOIN_S:g} s through {path.absolute()}: {problem}")
