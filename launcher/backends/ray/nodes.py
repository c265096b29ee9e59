"""The other nodes of a run's Ray, as the launcher brings them in and keeps them."""

from __future__ import annotations

import logging
import threading

from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.node import NodeConfig
from launcher.core.errors import ServerError
from launcher.distributed.allocation import Member

MODULE = "launcher.backends.ray.node"
LIVES = 3
"""So often a node is begun before the run goes on without it."""
GRACE_S = 15.0


class Nodes:
    """Starts a node beside each member of the group, and another one in place of each that dies."""

    def __init__(self, assignment: DriverConfig, token: str, log: logging.Logger) -> None:
        self._assignment = assignment
        self._token = token
        self._log = log
        self._ranks = assignment.allocation.ranks
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self, head: str) -> None:
        """Start them all, in the background: replicas come up where a node is there."""
        members = self._ranks.wait() if self._ranks is not None else []
        for member, room in zip(members, self._assignment.rooms[1:], strict=True):
            given = (member, self._joining(head, member, room))
            self._threads.append(threading.Thread(target=self._keep, args=given, name="ray-node", daemon=True))
            self._threads[-1].start()

    def leave(self) -> None:
        """End them all; returns when nothing of them is left."""
        self._leaving.set()
        if self._ranks is None or not self._threads:
            return
        for wait in (False, True):
            for member in self._ranks.wait():
                self._ranks.stop(member.rank, GRACE_S, wait=wait)
        for thread in self._threads:
            thread.join(GRACE_S)

    def _joining(self, head: str, member: Member, room: int) -> NodeConfig:
        a = self._assignment
        gpus = member.gpus if a.share.gpus else 0
        return NodeConfig(head, self._token, a.allocation.cpus, gpus, room, a.patience.probe_s)

    def _keep(self, member: Member, joining: NodeConfig) -> None:
        for _ in range(LIVES):
            problem = self._live(member, joining)
            if self._leaving.is_set():
                return
            self._log.warning("the Ray of node %s was lost: %s", member.node, problem)

    def _live(self, member: Member, joining: NodeConfig) -> str:
        """Be a node for as long as that lasts; return why it is over."""
        assert self._ranks is not None
        try:
            with self._ranks.start(member.rank, MODULE, {}) as orders:
                orders.send(joining)
                orders.recv()
        except ServerError as error:
            return str(error)
        except (EOFError, OSError):
            return "its processes died"
        return "it spoke out of turn"
