"""Who of the replicas is there, how each is, and which of them have stopped living."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.backends.ray.balancer import Balancer
from launcher.backends.ray.driver_config import Timeouts
from launcher.backends.ray.heartbeat import Address, ReplicaConnection
from launcher.core.health import Loss, ReplicaHealth
from launcher.core.types import Json

NOT_NEEDED = "it was not needed any more"


@dataclass
class ReplicaInfo:
    """One replica that answers. ``heard`` and ``moved`` are when it last spoke, and last made progress."""

    id: str
    pid: int
    node: str
    node_id: str
    address: Address
    slot: int
    state: dict[str, Json] = field(default_factory=dict)
    tokens_per_s: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    given_up: str | None = None
    leaving: bool = False

    def says(self, state: dict[str, Json]) -> None:
        now, before = time.monotonic(), self.state
        if before:
            made = state["generated_tokens"] - before["generated_tokens"]
            self.tokens_per_s = made / max(now - self.heard, 1e-3)
        if not state["running"] or state["steps"] != before.get("steps"):
            self.moved = now
        self.state, self.heard = state, now

    def problem(self, patience: Timeouts) -> str | None:
        """Return why this replica is to be given up, or None."""
        now = time.monotonic()
        if now - self.heard > patience.probe_s:
            return f"no sign of life for {patience.probe_s:g} s"
        if patience.stall_s is not None and now - self.moved > patience.stall_s:
            return f"requests, but no step for {patience.stall_s:g} s"
        return None


class ReplicaRegistry:
    """Keeps the balancer in step with the replicas. ``news`` gets ``""`` for each that came, and why each one left."""

    def __init__(self, balancer: Balancer, patience: Timeouts, lost: Sequence[Loss] = ()) -> None:
        self.news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.model = ""
        self._balancer = balancer
        self._patience = patience
        self._lock = threading.Lock()
        self._members: list[ReplicaInfo] = []
        self._lost = list(lost)

    def members(self) -> list[ReplicaInfo]:
        with self._lock:
            return list(self._members)

    def came(self, caller: ReplicaConnection) -> None:
        """Listen to one replica for as long as it is there."""
        member, reason = None, "its process died"
        while (heard := caller.hear()) is not None:
            if heard["kind"] == "ready":
                member = self._join(heard)
            elif heard["kind"] == "state" and member is not None:
                member.says(heard["state"])
                if member.leaving and self._idle(member):
                    reason = NOT_NEEDED
                    break
            elif heard["kind"] == "leaving" and member is not None:
                member.leaving = True
                self._balancer.drain(member.slot)
            elif heard["kind"] == "failed":
                reason = heard["reason"]
        self._left(member, reason)
        caller.let_go()

    def hung(self) -> list[ReplicaInfo]:
        """Return the replicas to give up."""
        for member in self.members():
            member.given_up = member.problem(self._patience)
        return [member for member in self.members() if member.given_up is not None]

    def describe(self) -> list[ReplicaHealth]:
        """Return one line for each replica: who, where, ``live`` or why it is given up, how busy, how fast."""
        sessions = self._balancer.sessions() or {}
        return [
            {
                "id": m.id,
                "pid": m.pid,
                "node": m.node,
                "state": m.given_up or m.state.get("error") or "live",
                "requests": sessions.get(m.slot, 0),
                "running": m.state.get("running", 0),
                "queued": m.state.get("queued", 0),
                "generated_tokens": m.state.get("generated_tokens", 0),
                "tokens_per_s": round(m.tokens_per_s, 1),
            }
            for m in self.members()
        ]

    def lost(self) -> list[Loss]:
        """Return who left, with the reason and when; the last sixteen."""
        with self._lock:
            return self._lost[-16:]

    def note(self, pid: int, reason: str) -> None:
        """Take note of the loss of a process that is no replica."""
        with self._lock:
            self._lost.append(_loss(None, pid, reason))

    def _join(self, heard: dict[str, Json]) -> ReplicaInfo:
        address = (heard["host"], heard["port"])
        slot = self._balancer.add(address)
        member = ReplicaInfo(heard["id"], heard["pid"], heard["node"], heard["node_id"], address, slot)
        with self._lock:
            self._members.append(member)
            self.model = heard["model"]
        self.news.put("")
        return member

    def _left(self, member: ReplicaInfo | None, reason: str) -> None:
        with self._lock:
            if member is not None:
                reason = member.given_up or reason
                self._members.remove(member)
            self._lost.append(_loss(member.id, member.pid, reason) if member else _loss(None, None, reason))
        if member is not None:
            self._balancer.remove(member.slot)
        self.news.put(reason)

    def _idle(self, member: ReplicaInfo) -> bool:
        sessions = self._balancer.sessions()
        return sessions is not None and not sessions.get(member.slot)


def _loss(id: str | None, pid: int | None, reason: str) -> Loss:
    return {"id": id, "pid": pid, "reason": reason, "time": time.time()}
