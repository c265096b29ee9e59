"""The other ranks of a model, one by one: processes that this one started, or that run beside members of its group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from launcher.core.errors import UserError
from launcher.distributed.allocation import Allocation, Member, Ranks
from launcher.distributed.group.child import Child
from launcher.distributed.group.transport import peer_address
from launcher.engines.megatron import layout
from launcher.engines.megatron.distributed import leader_rank
from launcher.engines.megatron.messages import WorkerSpec, WorkerStatus
from launcher.engines.megatron.worker_config import WorkerConfig

MODULE = "launcher.engines.megatron.worker"
SILENCE_S = 10.0
"""How long a follower may say nothing before it counts as hung. A stopped or frozen process says nothing; one that
computes, or that a busy machine slows down, does."""

LOADING = 60
"""How many times longer it may be silent before it is ready: loading a library from a slow disk stops all threads."""

GRACE_S = 5.0
"""How long a follower may take to leave before it is killed."""


class Follower(ABC):
    """One rank, and the connection that carries its orders. ``host`` is the address of another host that it is on."""

    rank: int
    orders: Connection
    where: str
    host: str | None = None
    ready: bool = False
    silent_s: float = 0.0

    def news(self) -> str | None:
        """Hear what a follower has to say; return why it is dead, None if it lives."""
        try:
            message = self.orders.recv()
        except (EOFError, OSError):
            return f"rank {self.rank} ({self.where}) died"
        if not isinstance(message, WorkerStatus):
            return f"rank {self.rank} failed: {message}"
        self.ready |= message is WorkerStatus.ready
        self.silent_s = 0.0
        return None

    def silent(self, seconds: float, allowed_s: float) -> str | None:
        """Count time in which nothing was heard; return that the follower hangs when it was too much."""
        self.silent_s += seconds
        allowed_s *= 1 if self.ready else LOADING
        if self.silent_s <= allowed_s:
            return None
        return f"rank {self.rank} ({self.where}) hangs: no sign of life for {allowed_s:g} s"

    @abstractmethod
    def kill(self) -> None:
        """Begin to end the process at once."""

    @abstractmethod
    def stop(self) -> None:
        """End the process: politely, then not."""


class LocalWorker(Follower):
    """A process on this host."""

    def __init__(self, place: WorkerSpec) -> None:
        self.rank = place.rank
        self.orders, theirs = Pipe()
        self._child = Child(MODULE, _environment(place.placement), theirs)
        self.where = f"process {self._child.process.pid}"
        self.orders.send(place)

    def kill(self) -> None:
        self._child.process.kill()

    def stop(self) -> None:
        self._child.end(GRACE_S)
        self.orders.close()


class RemoteWorker(Follower):
    """A process beside a member of the group, on its node."""

    def __init__(self, place: WorkerSpec, member: Member, ranks: Ranks) -> None:
        self.rank = place.rank
        self.where = f"process {member.rank} of the group, on {member.node}"
        self._member, self._ranks = member, ranks
        self.orders = ranks.start(member.rank, MODULE, _environment(place.placement))
        self.orders.send(place)
        there = peer_address(self.orders)
        self.host = there if there != ranks.address else None

    def kill(self) -> None:
        self._ranks.stop(self._member.rank, 0.0, wait=False)

    def stop(self) -> None:
        self._ranks.stop(self._member.rank, GRACE_S)
        self.orders.close()


def _environment(placement: WorkerConfig) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(placement.threads)}


@dataclass(frozen=True)
class RankAssignment:
    """A rank of the model, and the member of the group that has it (None: a process of this host)."""

    rank: int
    device: int
    member: Member | None = None


def spots(placement: WorkerConfig, allocation: Allocation | None) -> tuple[RankAssignment, list[RankAssignment]]:
    """Return the leader's place in the model, and those of the others.

    The leader has the first rank of the last stage. The others of a group follow in its order, from the first stage on
    after the last, so that neighbours stay neighbours. Raises `UserError` for a group that does not fit the layout.
    """
    p, leader = placement.parallelism, leader_rank(placement.parallelism)
    if allocation is None or allocation.ranks is None or p.world_size == 1:
        return RankAssignment(leader, leader), [
            RankAssignment(rank, rank) for rank in range(p.world_size) if rank != leader
        ]
    members = [allocation.member(), *allocation.ranks.wait()]
    if len(members) != p.world_size:
        raise UserError(f"parallelism: it needs {p.world_size} processes, and {len(members)} were started together")
    layout.check_nodes(p, [member.node for member in members])
    found = [RankAssignment((leader + n) % p.world_size, _device(placement, m), m) for n, m in enumerate(members)]
    return found[0], found[1:]


def _device(placement: WorkerConfig, member: Member) -> int:
    """Return the number of a member's GPU among those that it sees; SLURM may show each task its own only."""
    if placement.device == "cpu" or member.gpus == 1:
        return 0
    if member.local_rank >= member.gpus:
        told = f"process {member.rank} is number {member.local_rank} on {member.node} and sees {member.gpus} GPUs"
        raise UserError(f"parallelism: {told}; it needs one of its own")
    return member.local_rank


def start(places: Sequence[WorkerSpec], spots: Sequence[RankAssignment], ranks: Ranks | None) -> list[Follower]:
    """Start all followers. Raises `ServerError` if one cannot be reached; the others are stopped then."""
    crew: list[Follower] = []
    try:
        for place, spot in zip(places, spots, strict=True):
            if spot.member is None or ranks is None:
                crew.append(LocalWorker(place))
            else:
                crew.append(RemoteWorker(place, spot.member, ranks))
    except BaseException:
        for follower in crew:
            follower.stop()
        raise
    return crew
