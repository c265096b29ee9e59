"""One more node of a run's Ray: it runs beside a member of the group, for as long as the leader wants it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from launcher.backends.ray import cluster, session_dir
from launcher.backends.ray.application import REPLICA
from launcher.core import processes


@dataclass(frozen=True)
class NodeConfig:
    """What a node must know: where the head is, the token, what Ray may give away here, and to how many replicas."""

    head: str
    token: str = field(repr=False)
    cpus: int
    gpus: int
    room: int
    probe_s: float


def main() -> None:
    """Receive a `NodeConfig` and run the node until the leader, or the group agent, says to stop.

    The processes of Ray are a session of their own, of which nothing is left when this process ends, however it does.
    """
    orders, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
    joining: NodeConfig = orders.recv()
    with session_dir.create(joining.token) as folder, _spawn(joining, folder) as raylet:
        try:
            wait([orders, lifeline, os.pidfd_open(raylet.pid)])
        finally:
            assert raylet.stdin is not None
            raylet.stdin.close()
            processes.kill_session(raylet.pid)


def _spawn(joining: NodeConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Start Ray in a session of its own; it ends when its standard input does."""
    given = [
        f"--address={joining.head}",
        f"--num-cpus={joining.cpus}",
        f"--num-gpus={joining.gpus}",
        f'--resources={{"{REPLICA}": {joining.room}}}',
        f"--object-store-memory={cluster.OBJECT_STORE}",
        f"--temp-dir={folder / session_dir.RAY_SUBDIR}",
    ]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "launcher.backends.ray.raylet", *given],
        stdin=subprocess.PIPE,
        stdout=2,
        env=cluster.environment(folder, joining.probe_s, nodes=2),
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
