"""A rank that schedules nothing: it takes part in the steps that the leader announces, and dies with it."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection

from launcher.engines.megatron.orders import Compute, Place, Plain


def main() -> None:
    """Follow the leader at the other end of two connections, given by the numbers of their file descriptors.

    The first carries a `Place`, then one message per step; it may be silent for ever. Nothing comes over the second:
    when it ends, the leader is gone, whatever this rank is waiting for.
    """
    orders, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    try:
        _follow(orders)
    except Exception as error:
        orders.send(f"{type(error).__name__}: {error}")
        raise


def _follow(orders: Connection) -> None:
    from launcher.engines.megatron import distributed

    place: Place = orders.recv()
    distributed.use_way_to(place.host)
    store = distributed.meet(place.host, place.port)
    with place.placement.stage(place.rank, store, place.device) as stage:
        orders.send(None)
        while True:
            match orders.recv():
                case Compute(plan):
                    stage.compute(plan)
                case Plain(tokens):
                    stage.plain(tokens)
                case other:
                    raise TypeError(f"an order of type {type(other).__qualname__}")


def _die_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
