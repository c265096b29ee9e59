"""Runs a model over several processes: starts the workers, sends them each step, and detects their death."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import wait as wait_readable
from typing import TYPE_CHECKING, Any

from launcher.core.errors import EngineUnavailable, ServerError
from launcher.core.logs import LogFile
from launcher.distributed.allocation import LOOPBACK, Allocation
from launcher.engines.megatron import distributed, workers
from launcher.engines.megatron.messages import HEARTBEAT_INTERVAL_S, Compute, PlainForward, WorkerSpec
from launcher.engines.megatron.worker_config import WorkerConfig
from launcher.engines.megatron.workers import HEARTBEAT_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, RankAssignment, Worker
from launcher.engines.runtime.step import StepPlan

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from launcher.engines.megatron.stage import Stage


class WorkerGroup:
    """All ranks but the leader's. Implements the executor's `Peers`.

    ``dead`` completes with the reason when a worker dies or sends no heartbeat for ``heartbeat_timeout_s``. All workers
    are then killed, which ends the leader's current collective. ``ready`` completes when all can take part in steps.
    """

    def __init__(self, workers: Sequence[Worker], heartbeat_timeout_s: float) -> None:
        self._workers = workers
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._closing = False
        self.dead: Future[str] = Future()
        self.ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._monitor, name="engine-workers", daemon=True)
        self._thread.start()

    def step(self, plan: StepPlan) -> None:
        self._send(Compute(plan))

    def plain(self, tokens: Sequence[int], exact: bool) -> None:
        self._send(PlainForward(tokens, exact))

    def death_reason(self) -> str | None:
        """Return which rank died, after a collective has failed; None if all live."""
        wait((self.dead,), timeout=SHUTDOWN_TIMEOUT_S)
        return self.dead.result() if self.dead.done() else None

    def close(self) -> None:
        self._closing = True
        for worker in self._workers:
            worker.stop()
        self._thread.join(SHUTDOWN_TIMEOUT_S)

    def _send(self, message: Compute | PlainForward) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            for worker in self._workers:
                worker.connection.send_bytes(data)
        except OSError as error:
            raise EngineUnavailable(f"rank {worker.rank} ({worker.where}) died") from error

    def _monitor(self) -> None:
        while not self._closing:
            with suppress(OSError, ValueError):  # `close` closes the connections during the wait
                dead = self._listen()
                if dead is not None and not self._closing:
                    self._died(*dead)
                    return

    def _listen(self) -> tuple[Worker, str] | None:
        """Wait for a message, at most one heartbeat interval; return the dead worker and the reason.

        Time in which the whole job was suspended is no silence.
        """
        heard = wait_readable([w.connection for w in self._workers], HEARTBEAT_INTERVAL_S)
        found = [
            (w, w.read_status() if w.connection in heard else w.check_silence(self._heartbeat_timeout_s))
            for w in self._workers
        ]
        if not self.ready.done() and all(w.ready for w in self._workers):
            self.ready.set_result(None)
        return next(((worker, reason) for worker, reason in found if reason is not None), None)

    def _died(self, worker: Worker, reason: str) -> None:
        """Kill all workers, and end a step that waits for a rank on a lost host."""
        from launcher.engines.megatron import distributed

        # Set first: a collective's own error, once they are gone, is less clear.
        self.dead.set_result(reason)
        for other in self._workers:
            other.kill()
        if worker.host is not None:
            distributed.close_connections(worker.host)


@contextmanager
def launch_workers(
    worker_config: WorkerConfig,
    on_death: Callable[[Future[str]], None],
    allocation: Allocation | None = None,
    heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S,
    stopping: Future[None] | None = None,
    log_of: Callable[[int], LogFile | None] | None = None,
) -> Iterator[tuple[Stage, WorkerGroup | None]]:
    """Start all ranks, and yield the leader's stage and its workers (None for a single rank).

    With the ``ranks`` of an allocation, its members run the workers. ``on_death`` is called in another thread with the
    reason when a worker dies. Raises `ServerError` if one dies before all are ready, and `UserError` for an allocation
    that does not fit. The start ends early, with `ServerError`, once ``stopping`` is done. Leaving the context ends all
    workers. ``log_of`` says where the output of a rank goes; without it, it goes to standard error.
    """
    ended = stopping or Future()
    with ExitStack() as stack:
        mine, others = workers.rank_assignments(worker_config, allocation)
        if not others:
            yield stack.enter_context(worker_config.stage(mine.rank, device=mine.device)), None
            return
        store, group = _start(worker_config, others, allocation, heartbeat_timeout_s, log_of)
        stack.callback(group.close)
        stage = _build_unless_dead(
            group, lambda: stack.enter_context(worker_config.stage(mine.rank, store, mine.device)), ended
        )
        _wait_unless_dead(group.ready, group, ended)
        group.dead.add_done_callback(on_death)
        group.dead.add_done_callback(lambda _: distributed.abort())
        yield stage, group


def _start(
    worker_config: WorkerConfig,
    others: Sequence[RankAssignment],
    allocation: Allocation | None,
    heartbeat_timeout_s: float,
    log_of: Callable[[int], LogFile | None] | None,
) -> tuple[Store, WorkerGroup]:
    ranks = allocation.ranks if allocation is not None else None
    host = ranks.address if ranks is not None else LOOPBACK
    distributed.use_interface_towards(host)
    store, port = distributed.host_store(host)
    specs = [
        WorkerSpec(worker_config, each.rank, each.device, host, port, log_of(each.rank) if log_of else None)
        for each in others
    ]
    return store, WorkerGroup(workers.start(specs, others, ranks), heartbeat_timeout_s)


def _build_unless_dead(group: WorkerGroup, build: Callable[[], Stage], stopping: Future[None]) -> Stage:
    """Build in a separate thread: a rank that waits for a dead one to join cannot be interrupted, only abandoned."""
    built: Future[Stage] = Future()

    def run() -> None:
        try:
            built.set_result(build())
        except BaseException as error:
            built.set_exception(error)

    threading.Thread(target=run, name="engine-load", daemon=True).start()
    try:
        _wait_unless_dead(built, group, stopping)
    except ServerError:
        # The leader mostly fails for the same reason, with a clearer error.
        wait((built,), timeout=SHUTDOWN_TIMEOUT_S)
        if not built.done() or built.exception() is None:
            raise
    return built.result()


def _wait_unless_dead(future: Future[Any], group: WorkerGroup, stopping: Future[None]) -> None:
    """Wait for a future. Raises `ServerError` once a worker is dead, or the engine is ``stopping``."""
    either: tuple[Future[Any], ...] = (future, group.dead, stopping)
    wait(either, return_when=FIRST_COMPLETED)
    if group.dead.done():
        raise ServerError(group.dead.result())
    if stopping.done() and not future.done():
        raise ServerError("the engine is stopping")
