"""Entry point of a worker: a rank that takes part in the leader's steps and exits with the leader."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from launcher.engines.megatron.messages import HEARTBEAT_INTERVAL_S, Compute, PlainForward, WorkerSpec, WorkerStatus


class WorkerConnection:
    """Sends to the leader, from several threads."""

    def __init__(self, messages: Connection) -> None:
        self._messages = messages
        self._lock = threading.Lock()

    def send(self, status: WorkerStatus | str) -> None:
        with self._lock:
            self._messages.send(status)

    def send_heartbeats(self) -> None:
        """Send heartbeats, also while this process computes or waits for another rank."""
        with suppress(OSError):  # the leader is gone
            while True:
                self.send(WorkerStatus.alive)
                time.sleep(HEARTBEAT_INTERVAL_S)


def main() -> None:
    """Serve the leader at the other end of two connections, given by the numbers of their file descriptors.

    The first carries a `WorkerSpec`, then one message per step; idle time is unlimited. This rank sends its heartbeats
    over it. The second carries no data: its end means that the leader is gone.
    """
    messages, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
    leader = WorkerConnection(messages)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()
    threading.Thread(target=leader.send_heartbeats, daemon=True).start()
    try:
        _serve(messages, leader)
    except Exception as error:
        leader.send(f"{type(error).__name__}: {error}")
        raise


def _serve(messages: Connection, leader: WorkerConnection) -> None:
    from launcher.engines.megatron import distributed

    spec: WorkerSpec = messages.recv()
    distributed.use_interface_towards(spec.host)
    store = distributed.join_store(spec.host, spec.port)
    with spec.worker_config.stage(spec.rank, store, spec.device) as stage:
        leader.send(WorkerStatus.ready)
        while True:
            match messages.recv():
                case Compute(plan):
                    stage.compute(plan)
                case PlainForward(tokens, exact):
                    stage.plain(tokens, exact)
                case other:
                    raise TypeError(f"unknown message type {type(other).__qualname__}")


def _exit_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
