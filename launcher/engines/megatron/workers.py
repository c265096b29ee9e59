"""The workers of a model: processes that the leader started, or that run beside members of its group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from launcher.core.errors import UserError
from launcher.core.heartbeat import SilenceTimer
from launcher.distributed.allocation import Allocation, Member, Ranks
from launcher.distributed.group.child import Child
from launcher.distributed.group.transport import peer_address
from launcher.engines.megatron import layout
from launcher.engines.megatron.distributed import leader_rank
from launcher.engines.megatron.messages import HEARTBEAT_INTERVAL_S, WorkerSpec, WorkerStatus
from launcher.engines.megatron.worker_config import WorkerConfig

MODULE = "launcher.engines.megatron.worker"
HEARTBEAT_TIMEOUT_S = 10.0
"""A worker without a heartbeat for so long counts as hung.

Heartbeats come from a thread, so a worker that computes still sends them, and so does one on a busy machine. A stopped
or frozen process sends none.
"""

RANK = "LAUNCHER_RANK"
"""The environment variable by which the monitor knows a worker's rank."""

LOADING_FACTOR = 60
"""Factor on the heartbeat timeout while a worker loads: loading a library from a slow disk stops all threads."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long a worker may take to exit before it is killed."""


class Worker(ABC):
    """One rank and the connection to it. ``host`` is its address if it runs on another host."""

    rank: int
    connection: Connection
    where: str
    host: str | None = None
    ready: bool = False

    def __init__(self) -> None:
        self.silence = SilenceTimer(2 * HEARTBEAT_INTERVAL_S)

    def read_status(self) -> str | None:
        """Read one message; return why the worker is dead, None if it lives."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return f"rank {self.rank} ({self.where}) died"
        if not isinstance(message, WorkerStatus):
            return f"rank {self.rank} failed: {message}"
        self.ready |= message is WorkerStatus.ready
        self.silence.reset()
        return None

    def check_silence(self, allowed_s: float) -> str | None:
        """Return a reason if no heartbeat came for ``allowed_s`` seconds, else None."""
        allowed_s *= 1 if self.ready else LOADING_FACTOR
        if self.silence.check() <= allowed_s:
            return None
        return f"rank {self.rank} ({self.where}) hangs: no heartbeat for {allowed_s:g} s"

    @abstractmethod
    def kill(self) -> None:
        """Kill the process, without waiting for its end."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the process to exit, kill it after a timeout, and wait for its end."""


class LocalWorker(Worker):
    """A process on this host."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__()
        self.rank = spec.rank
        self.connection, theirs = Pipe()
        self._child = Child(MODULE, _environment(spec), theirs, spec.log)
        self.where = f"process {self._child.process.pid}"
        self.connection.send(spec)

    def kill(self) -> None:
        self._child.process.kill()

    def stop(self) -> None:
        self._child.end(SHUTDOWN_TIMEOUT_S)
        self.connection.close()


class RemoteWorker(Worker):
    """A process that a member of the group runs on its node."""

    def __init__(self, spec: WorkerSpec, member: Member, ranks: Ranks) -> None:
        super().__init__()
        self.rank = spec.rank
        self.where = f"process {member.rank} of the group, on {member.node}"
        self._member, self._ranks = member, ranks
        self.connection = ranks.start(member.rank, MODULE, _environment(spec), spec.log)
        self.connection.send(spec)
        there = peer_address(self.connection)
        self.host = there if there != ranks.address else None

    def kill(self) -> None:
        self._ranks.stop(self._member.rank, 0.0, wait=False)

    def stop(self) -> None:
        self._ranks.stop(self._member.rank, SHUTDOWN_TIMEOUT_S)
        self.connection.close()


def _environment(spec: WorkerSpec) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(spec.worker_config.threads), RANK: str(spec.rank)}


@dataclass(frozen=True)
class RankAssignment:
    """A rank of the model, and the member of the group that runs it (None: a process of this host)."""

    rank: int
    device: int
    member: Member | None = None


def rank_assignments(
    worker_config: WorkerConfig, allocation: Allocation | None
) -> tuple[RankAssignment, list[RankAssignment]]:
    """Return the leader's rank and those of the workers.

    The leader has the first rank of the last stage. The other members of a group have the next ranks in their own
    order, wrapping to the first stage, so that neighbours stay neighbours. Raises `UserError` for a group that does not
    fit the layout.
    """
    p, leader = worker_config.parallelism, leader_rank(worker_config.parallelism)
    if allocation is None or allocation.ranks is None or p.world_size == 1:
        return RankAssignment(leader, leader), [
            RankAssignment(rank, rank) for rank in range(p.world_size) if rank != leader
        ]
    members = [allocation.member(), *allocation.ranks.wait()]
    if len(members) != p.world_size:
        raise UserError(f"parallelism: needs {p.world_size} processes, got {len(members)} that were started together")
    layout.check_nodes(p, [member.node for member in members])
    found = [RankAssignment((leader + n) % p.world_size, _device(worker_config, m), m) for n, m in enumerate(members)]
    return found[0], found[1:]


def _device(worker_config: WorkerConfig, member: Member) -> int:
    """Return the number of a member's GPU among those that it sees; SLURM may show each task only its own."""
    if worker_config.device == "cpu" or member.gpus == 1:
        return 0
    if member.local_rank >= member.gpus:
        seen = f"process {member.rank} is number {member.local_rank} on {member.node} and sees {member.gpus} GPUs"
        raise UserError(f"parallelism: {seen}; each process needs its own GPU")
    return member.local_rank


def start(specs: Sequence[WorkerSpec], assignments: Sequence[RankAssignment], ranks: Ranks | None) -> list[Worker]:
    """Start all workers. Raises `ServerError` if one cannot be reached, after stopping the others."""
    started: list[Worker] = []
    try:
        for spec, assignment in zip(specs, assignments, strict=True):
            if assignment.member is None or ranks is None:
                started.append(LocalWorker(spec))
            else:
                started.append(RemoteWorker(spec, assignment.member, ranks))
    except BaseException:
        for worker in started:
            worker.stop()
        raise
    return started
