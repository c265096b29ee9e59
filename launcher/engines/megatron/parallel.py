"""The leader's side of a model over several processes: keeps the others in step, and notices their death."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import wait as wait_readable
from typing import TYPE_CHECKING, Any

from launcher.core.errors import EngineUnavailable, ServerError
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.megatron import distributed, workers
from launcher.engines.megatron.messages import BEAT_S, Compute, PlainForward, WorkerSpec
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.megatron.workers import GRACE_S, SILENCE_S, Follower, RankAssignment
from launcher.engines.runtime.step import StepPlan

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from launcher.engines.megatron.stage import Stage


class WorkerGroup:
    """All ranks but the leader's. Implements the executor's `Peers`.

    ``dead`` completes with the reason as soon as one of them is gone, or has been silent for ``silence_s``; all are
    then killed, which ends whatever collective the leader is in. ``ready`` completes when all can take part in steps.
    """

    def __init__(self, followers: Sequence[Follower], silence_s: float) -> None:
        self._followers = followers
        self._silence_s = silence_s
        self._closing = False
        self.dead: Future[str] = Future()
        self.ready: Future[None] = Future()
        self._watch = threading.Thread(target=self._wait, name="engine-followers", daemon=True)
        self._watch.start()

    def step(self, plan: StepPlan) -> None:
        self._send(Compute(plan))

    def plain(self, tokens: Sequence[int], exact: bool) -> None:
        self._send(PlainForward(tokens, exact))

    def cause(self) -> str | None:
        """Return which rank is gone, when a collective has just failed; None if all live on."""
        wait((self.dead,), timeout=GRACE_S)
        return self.dead.result() if self.dead.done() else None

    def close(self) -> None:
        self._closing = True
        for follower in self._followers:
            follower.stop()
        self._watch.join(GRACE_S)

    def _send(self, message: Compute | PlainForward) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            for follower in self._followers:
                follower.orders.send_bytes(data)
        except OSError as error:
            raise EngineUnavailable(f"rank {follower.rank} ({follower.where}) died") from error

    def _wait(self) -> None:
        while not self._closing:
            with suppress(OSError, ValueError):  # the connections close under our feet when the engine closes
                gone = self._listen()
                if gone is not None and not self._closing:
                    self._died(*gone)
                    return

    def _listen(self) -> tuple[Follower, str] | None:
        """Wait for news, or as long as a beat; return who is gone, and why.

        Silence is counted in waits of our own, so that time in which the whole job was suspended is none.
        """
        begun = time.monotonic()
        heard = wait_readable([f.orders for f in self._followers], BEAT_S)
        waited = min(time.monotonic() - begun, 2 * BEAT_S)
        found = [(f, f.news() if f.orders in heard else f.silent(waited, self._silence_s)) for f in self._followers]
        if not self.ready.done() and all(f.ready for f in self._followers):
            self.ready.set_result(None)
        return next(((follower, reason) for follower, reason in found if reason is not None), None)

    def _died(self, follower: Follower, reason: str) -> None:
        """Kill all, and free a step that waits for a rank whose host is gone without a word."""
        from launcher.engines.megatron import distributed

        # Said first: what a collective complains about, once they are gone, is less clear.
        self.dead.set_result(reason)
        for other in self._followers:
            other.kill()
        if follower.host is not None:
            distributed.hang_up(follower.host)


@contextmanager
def lead(
    placement: WorkerConfig,
    on_death: Callable[[Future[str]], None],
    allocation: Allocation | None = None,
    silence_s: float = SILENCE_S,
) -> Iterator[tuple[Stage, WorkerGroup | None]]:
    """Start all ranks of a placement, and yield the leader's stage and its followers (None if it is alone).

    With the ``ranks`` of an allocation, the others run beside those. ``on_death`` is called, in another thread, with
    the reason when a follower is gone. Raises `ServerError` if one dies before all are ready, and `UserError` for an
    allocation that does not fit. Leaving the context leaves no process behind.
    """
    with ExitStack() as stack:
        mine, others = workers.spots(placement, allocation)
        if not others:
            yield stack.enter_context(placement.stage(mine.rank, device=mine.device)), None
            return
        store, followers = _start(placement, others, allocation, silence_s)
        stack.callback(followers.close)
        stage = _unless_dead(followers, lambda: stack.enter_context(placement.stage(mine.rank, store, mine.device)))
        either: tuple[Future[Any], ...] = (followers.ready, followers.dead)
        wait(either, return_when=FIRST_COMPLETED)
        if followers.dead.done():
            raise ServerError(followers.dead.result())
        followers.dead.add_done_callback(on_death)
        followers.dead.add_done_callback(lambda _: distributed.abort())
        yield stage, followers


def _start(
    placement: WorkerConfig, others: Sequence[RankAssignment], allocation: Allocation | None, silence_s: float
) -> tuple[Store, WorkerGroup]:
    ranks = allocation.ranks if allocation is not None else None
    host = ranks.address if ranks is not None else LOOPBACK
    distributed.use_way_to(host)
    store, port = distributed.host_store(host)
    places = [WorkerSpec(placement, spot.rank, spot.device, host, port) for spot in others]
    return store, WorkerGroup(workers.start(places, others, ranks), silence_s)


def _unless_dead(followers: WorkerGroup, build: Callable[[], Stage]) -> Stage:
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
