"""A rank that schedules nothing: it takes part in the steps that the leader announces, and dies with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from launcher.engines.megatron.messages import BEAT_S, Compute, PlainForward, WorkerSpec, WorkerStatus


class WorkerConnection:
    """What this rank says to the leader, from several threads."""

    def __init__(self, orders: Connection) -> None:
        self._orders = orders
        self._lock = threading.Lock()

    def say(self, word: WorkerStatus | str) -> None:
        with self._lock:
            self._orders.send(word)

    def beat(self) -> None:
        """Say again and again that this process runs, also while it computes or waits for another rank."""
        with suppress(OSError):  # the leader is gone
            while True:
                self.say(WorkerStatus.alive)
                time.sleep(BEAT_S)


def main() -> None:
    """Follow the leader at the other end of two connections, given by the numbers of their file descriptors.

    The first carries a `WorkerSpec`, then one message per step; idle time is unlimited. This rank's heartbeat goes over
    it. Nothing comes over the second: its end means that the leader is gone.
    """
    orders, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
    voice = WorkerConnection(orders)
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    threading.Thread(target=voice.beat, daemon=True).start()
    try:
        _follow(orders, voice)
    except Exception as error:
        voice.say(f"{type(error).__name__}: {error}")
        raise


def _follow(orders: Connection, voice: WorkerConnection) -> None:
    from launcher.engines.megatron import distributed

    place: WorkerSpec = orders.recv()
    distributed.use_way_to(place.host)
    store = distributed.meet(place.host, place.port)
    with place.placement.stage(place.rank, store, place.device) as stage:
        voice.say(WorkerStatus.ready)
        while True:
            match orders.recv():
                case Compute(plan):
                    stage.compute(plan)
                case PlainForward(tokens, exact):
                    stage.plain(tokens, exact)
                case other:
                    raise TypeError(f"an order of type {type(other).__qualname__}")


def _die_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
