"""Entry point of a Ray worker node, started by the group agent."""

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
    """The head's address and token, this node's resources, and the number of replicas that it holds."""

    head: str
    token: str = field(repr=False)
    cpus: int
    gpus: int
    replicas: int
    probe_s: float


def main() -> None:
    """Receive a `NodeConfig` and run the node until the leader, or the group agent, says to stop.

    Ray's processes have a session of their own. It ends with this process, even if that is killed.
    """
    messages, lifeline = (Connection(int(fd)) for fd in sys.argv[1:3])
    config: NodeConfig = messages.recv()
    with session_dir.create(config.token) as folder, _spawn(config, folder) as raylet:
        try:
            wait([messages, lifeline, os.pidfd_open(raylet.pid)])
        finally:
            assert raylet.stdin is not None
            raylet.stdin.close()
            processes.kill_session(raylet.pid)


def _spawn(config: NodeConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Start Ray in a session of its own; the end of its standard input stops it."""
    options = [
        f"--address={config.head}",
        f"--num-cpus={config.cpus}",
        f"--num-gpus={config.gpus}",
        f'--resources={{"{REPLICA}": {config.replicas}}}',
        f"--object-store-memory={cluster.OBJECT_STORE_BYTES}",
        f"--temp-dir={folder / session_dir.RAY_SUBDIR}",
    ]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "launcher.backends.ray.raylet", *options],
        stdin=subprocess.PIPE,
        stdout=2,
        env=cluster.environment(folder, config.probe_s, nodes=2),
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
