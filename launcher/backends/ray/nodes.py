"""Starts the other nodes of a run's Ray, and restarts those that die."""

from __future__ import annotations

import logging
import threading

from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.node import NodeConfig
from launcher.core.errors import ServerError
from launcher.core.logs import LogFile
from launcher.core.restart_budget import RestartBudget
from launcher.core.run_folder import RunFolder
from launcher.distributed.allocation import Member

MODULE = "launcher.backends.ray.node"
MAX_STARTS = 3
"""After so many starts of a node the run continues without it."""
SHUTDOWN_TIMEOUT_S = 15.0


class Nodes:
    """Runs one node beside each member of the group."""

    def __init__(self, config: DriverConfig, token: str, log: logging.Logger) -> None:
        self._config = config
        self._token = token
        self._log = log
        self._ranks = config.allocation.ranks
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self, head: str) -> None:
        """Start all nodes in the background; replicas start on each node that has joined."""
        members = self._ranks.wait() if self._ranks is not None else []
        for member, replicas in zip(members, self._config.replicas_per_node[1:], strict=True):
            arguments = (member, self._node_config(head, member, replicas))
            self._threads.append(
                threading.Thread(target=self._keep_running, args=arguments, name="ray-node", daemon=True)
            )
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop all nodes; return when all their processes have ended."""
        self._stopping.set()
        if self._ranks is None or not self._threads:
            return
        for wait in (False, True):
            for member in self._ranks.wait():
                self._ranks.stop(member.rank, SHUTDOWN_TIMEOUT_S, wait=wait)
        for thread in self._threads:
            thread.join(SHUTDOWN_TIMEOUT_S)

    def _node_config(self, head: str, member: Member, replicas: int) -> NodeConfig:
        a = self._config
        gpus = member.gpus if a.share.gpus else 0
        return NodeConfig(head, self._token, a.allocation.cpus, gpus, replicas, a.timeouts.probe_s)

    def _log_of(self, member: Member) -> LogFile:
        folder = RunFolder(self._config.deployment.folder.resolve())
        return LogFile(folder.of_ray_node(member.rank), f"ray-node-{member.rank}")

    def _keep_running(self, member: Member, config: NodeConfig) -> None:
        budget = RestartBudget(MAX_STARTS)
        while not budget.exhausted:
            problem = self._run_once(member, config)
            if self._stopping.is_set():
                return
            self._log.warning("the Ray of node %s was lost: %s", member.node, problem)
            budget.record_failure()

    def _run_once(self, member: Member, config: NodeConfig) -> str:
        """Run a node until it stops; return the reason."""
        assert self._ranks is not None
        try:
            with self._ranks.start(member.rank, MODULE, {}, self._log_of(member)) as orders:
                orders.send(config)
                orders.recv()
        except ServerError as error:
            return str(error)
        except (EOFError, OSError):
            return "its processes died"
        return "it sent an unexpected message"
