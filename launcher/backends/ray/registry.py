"""The replicas that answer, the state of each, and those to replace."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.backends.balancer import Balancer
from launcher.backends.ray.driver_config import Timeouts
from launcher.backends.ray.heartbeat import HEARTBEAT_INTERVAL_S, Address, ReplicaConnection
from launcher.core.health import LostProcess, ReplicaHealth
from launcher.core.heartbeat import SilenceTimer
from launcher.core.types import Json

NOT_NEEDED = "it was not needed any more"
MAX_LOSSES = 16
"""How many of the last losses are reported."""


@dataclass
class ReplicaInfo:
    """One replica that answers.

    ``silence`` counts the seconds since its last heartbeat, ``stall`` those with requests but without a step.
    """

    id: str
    pid: int
    node: str
    node_id: str
    address: Address
    slot: int
    state: dict[str, Json] = field(default_factory=dict)
    tokens_per_s: float = 0.0
    updated: float = field(default_factory=time.monotonic)
    silence: SilenceTimer = field(default_factory=lambda: SilenceTimer(HEARTBEAT_INTERVAL_S * 2))
    stall: SilenceTimer = field(default_factory=lambda: SilenceTimer(HEARTBEAT_INTERVAL_S * 2))
    removal_reason: str | None = None
    leaving: bool = False

    def update(self, state: dict[str, Json]) -> None:
        now, before = time.monotonic(), self.state
        if before:
            tokens = state["generated_tokens"] - before["generated_tokens"]
            self.tokens_per_s = tokens / max(now - self.updated, 1e-3)
        if not state["running"] or state["steps"] != before.get("steps"):
            self.stall.reset()
        self.silence.reset()
        self.state, self.updated = state, now

    def problem(self, timeouts: Timeouts) -> str | None:
        """Return why this replica must be replaced, or None; called once per heartbeat interval."""
        silent_s, stalled_s = self.silence.check(), self.stall.check()
        if silent_s > timeouts.probe_s:
            return f"no heartbeat for {timeouts.probe_s:g} s"
        if timeouts.stall_s is not None and stalled_s > timeouts.stall_s:
            return f"requests, but no step for {timeouts.stall_s:g} s"
        return None


class ReplicaRegistry:
    """Tells the balancer about the replicas.

    ``changes`` gets ``""`` for each replica that becomes ready, and the reason for each that is lost.
    """

    def __init__(self, balancer: Balancer, timeouts: Timeouts, lost: Sequence[LostProcess] = ()) -> None:
        self.changes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.model = ""
        self._balancer = balancer
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._replicas: list[ReplicaInfo] = []
        self._lost = list(lost)

    def replicas(self) -> list[ReplicaInfo]:
        with self._lock:
            return list(self._replicas)

    def on_connect(self, connection: ReplicaConnection) -> None:
        """Read the messages of one replica until its connection ends."""
        replica, reason = None, "its process died"
        while (message := connection.receive()) is not None:
            if message["kind"] == "ready":
                replica = self._add(message)
            elif message["kind"] == "state" and replica is not None:
                replica.update(message["state"])
                if replica.leaving and self._idle(replica):
                    reason = NOT_NEEDED
                    break
            elif message["kind"] == "leaving" and replica is not None:
                replica.leaving = True
                self._balancer.drain(replica.slot)
            elif message["kind"] == "failed":
                reason = message["reason"]
        self._remove(replica, reason)
        connection.close()

    def hung(self) -> list[ReplicaInfo]:
        """Return the replicas to replace."""
        for replica in self.replicas():
            replica.removal_reason = replica.problem(self._timeouts)
        return [replica for replica in self.replicas() if replica.removal_reason is not None]

    def describe(self) -> list[ReplicaHealth]:
        """Return one line for each replica: its process, its node, its state, its load and its speed."""
        sessions = self._balancer.sessions() or {}
        return [
            {
                "id": r.id,
                "pid": r.pid,
                "node": r.node,
                "state": r.removal_reason or r.state.get("error") or "live",
                "requests": sessions.get(r.slot, 0),
                "running": r.state.get("running", 0),
                "queued": r.state.get("queued", 0),
                "generated_tokens": r.state.get("generated_tokens", 0),
                "tokens_per_s": round(r.tokens_per_s, 1),
            }
            for r in self.replicas()
        ]

    def lost(self) -> list[LostProcess]:
        """Return the last losses, each with its reason and its time."""
        with self._lock:
            return self._lost[-MAX_LOSSES:]

    def record_loss(self, pid: int, reason: str) -> None:
        """Record the loss of a process that is no replica."""
        with self._lock:
            self._lost.append(_loss(None, pid, reason))

    def _add(self, message: dict[str, Json]) -> ReplicaInfo:
        address = (message["host"], message["port"])
        slot = self._balancer.add(address)
        replica = ReplicaInfo(
            message["id"],
            message["pid"],
            message["node"],
            message["node_id"],
            address,
            slot,
        )
        with self._lock:
            self._replicas.append(replica)
            self.model = message["model"]
        self.changes.put("")
        return replica

    def _remove(self, replica: ReplicaInfo | None, reason: str) -> None:
        with self._lock:
            if replica is not None:
                reason = replica.removal_reason or reason
                self._replicas.remove(replica)
            self._lost.append(_loss(replica.id, replica.pid, reason) if replica else _loss(None, None, reason))
        if replica is not None:
            self._balancer.remove(replica.slot)
        self.changes.put(reason)

    def _idle(self, replica: ReplicaInfo) -> bool:
        sessions = self._balancer.sessions()
        return sessions is not None and not sessions.get(replica.slot)


def _loss(id: str | None, pid: int | None, reason: str) -> LostProcess:
    return {"id": id, "pid": pid, "reason": reason, "time": time.time()}
