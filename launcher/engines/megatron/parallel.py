"""The leader's side of a model over several processes: starts followers, keeps them in step, notices their death."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as wait_readable
from typing import TYPE_CHECKING, Any

from launcher.engines.megatron.distributed import leader_rank
from launcher.engines.megatron.orders import Compute, Place, Plain
from launcher.engines.megatron.placement import Placement
from launcher.engines.step import StepPlan
from launcher.errors import EngineUnavailable, ServerError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from launcher.engines.megatron.executor import Stage

GRACE_S = 5.0
"""How long a follower may take to leave before it is killed."""


class Follower:
    """One process with its two pipes."""

    def __init__(self, place: Place) -> None:
        self.rank = place.rank
        self.orders, theirs = Pipe()
        self.lifeline, end_of_life = Pipe()
        self.process = _spawn(place.placement.threads, theirs, end_of_life)
        theirs.close()
        end_of_life.close()
        self.orders.send(place)

    def news(self) -> str | None:
        """Return what a follower had to say: None that it is ready, else why it is dead."""
        try:
            message = self.orders.recv()
        except (EOFError, OSError):
            return f"rank {self.rank} (process {self.process.pid}) died"
        return None if message is None else f"rank {self.rank} failed: {message}"

    def stop(self) -> None:
        """End the process: politely, then not."""
        self.lifeline.close()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.orders.close()


class Followers:
    """All ranks but the leader's. Implements the executor's `Peers`.

    ``dead`` completes with the reason as soon as one of them is gone; the others are then stopped too, which ends
    whatever collective the leader is in.
    """

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = followers
        self._closing = False
        self.dead: Future[str] = Future()
        self._watch = threading.Thread(target=self._wait, name="engine-followers", daemon=True)
        self._watch.start()

    def step(self, plan: StepPlan) -> None:
        self._send(Compute(plan))

    def plain(self, tokens: Sequence[int]) -> None:
        self._send(Plain(tokens))

    def close(self) -> None:
        self._closing = True
        for follower in self._followers:
            follower.stop()
        self._watch.join(GRACE_S)

    def _send(self, message: Compute | Plain) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            for follower in self._followers:
                follower.orders.send_bytes(data)
        except OSError as error:
            raise EngineUnavailable(f"rank {follower.rank} (process {follower.process.pid}) died") from error

    def _wait(self) -> None:
        reason = None
        while reason is None and not self._closing:
            with suppress(OSError, ValueError):  # the pipes close under our feet when the engine closes
                for readable in wait_readable([f.orders for f in self._followers]):
                    reason = reason or next(f for f in self._followers if f.orders is readable).news()
        if not self._closing:
            for follower in self._followers:
                follower.process.kill()
            self.dead.set_result(reason or "a rank died")


@contextmanager
def lead(placement: Placement, on_death: Callable[[Future[str]], None]) -> Iterator[tuple[Stage, Followers | None]]:
    """Start all ranks of a placement, and yield the leader's stage and its followers (None if it is alone).

    ``on_death`` is called, in another thread, with the reason when a follower is gone. Raises `ServerError` if
    one dies before all are ready. Leaving the context leaves no process behind.
    """
    rank = leader_rank(placement.parallelism)
    with ExitStack() as stack:
        if placement.parallelism.world_size == 1:
            yield stack.enter_context(placement.stage(rank)), None
            return
        store, followers = _start(placement, rank)
        stack.callback(followers.close)
        stage = _unless_dead(followers, lambda: stack.enter_context(placement.stage(rank, store)))
        followers.dead.add_done_callback(on_death)
        yield stage, followers


def _start(placement: Placement, leader: int) -> tuple[Store, Followers]:
    from torch._C._distributed_c10d import TCPStore

    world = placement.parallelism.world_size
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    places = [Place(placement, rank, "127.0.0.1", store.port) for rank in range(world) if rank != leader]
    return store, Followers([Follower(place) for place in places])


def _unless_dead(followers: Followers, build: Callable[[], Stage]) -> Stage:
    """Build in a thread of its own: a rank that waits for a dead one to join cannot be interrupted, only left."""
    built: Future[Stage] = Future()

    def run() -> None:
        try:
            built.set_result(build())
        except BaseException as error:
            built.set_exception(error)

    threading.Thread(target=run, name="engine-load", daemon=True).start()
    either: tuple[Future[Any], ...] = (built, followers.dead)
    wait(either, return_when=FIRST_COMPLETED)
    if followers.dead.done():
        # What ended a follower mostly ends the leader too, which says it better.
        wait((built,), timeout=GRACE_S)
        if not built.done() or built.exception() is None:
            raise ServerError(followers.dead.result())
    return built.result()


def _spawn(threads: int, *pipes: Connection) -> subprocess.Popen[bytes]:
    """Start a follower with this interpreter and its import path; its output goes where our errors go."""
    fds = [pipe.fileno() for pipe in pipes]
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "launcher.engines.megatron.follower", *map(str, fds)]
    # A group of its own: Ctrl-C at the terminal is the leader's to handle.
    return subprocess.Popen(command, pass_fds=fds, env=environment, stdin=subprocess.DEVNULL, stdout=2, process_group=0)
