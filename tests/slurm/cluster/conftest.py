"""A real SLURM of two emulated nodes, shared by all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


@contextmanager
def cluster(nodes: int, mark: str, conf: str = "") -> Iterator[dict[str, str]]:
    """Bring a cluster up; ``mark``, a letter, keeps it apart from others of this session; ``conf``: more settings."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("an emulated SLURM needs root on Debian")
    folder, number = tempfile.mkdtemp(prefix="slab.", dir="/tmp"), os.getpid()
    lab = f"{mark}{number % 1000000}"
    settings = {
        "SLURM_LAB": folder,
        "LAB_ID": lab,
        "NODE_PREFIX": f"{lab}n",
        "SUBNET": f"10.{64 + (number + 61 * ord(mark)) % 128}.{number // 128 % 256}",
        "NODES": str(nodes),
        **{"CPUS": "4", "PREEMPT_PARTITION": "low", "PREEMPT_GRACE": "20", "KILL_WAIT": "20"},
        "EXTRA_CONF": conf,
    }
    # An engine that another test ran in this process has chosen loopback for itself; jobs must find their own way.
    chosen = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}
    environment = {name: value for name, value in os.environ.items() if name not in chosen} | settings
    Path(folder).chmod(0o755)
    try:
        up = subprocess.run([SCRIPTS / "slurm_up.sh"], env=environment, capture_output=True, text=True, timeout=240)
        if up.returncode:
            pytest.skip(f"no emulated SLURM here: {(up.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        path = f"{folder}/bin:{os.environ['PATH']}"
        yield environment | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path}
    finally:
        subprocess.run([SCRIPTS / "slurm_down.sh"], env=environment, capture_output=True, timeout=120, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def slurm() -> Iterator[dict[str, str]]:
    """Yield the environment in which SLURM's commands reach an emulated cluster of two nodes.

    A test may take a node away. SLURM ends jobs that need too much memory; without cgroups its accounting does that.
    Skips, with the reason, where no cluster can start: that takes root, and Debian's packages or apt.
    """
    with cluster(2, "s", "JobAcctGatherFrequency=task=1\\nJobAcctGatherParams=OverMemoryKill") as environment:
        yield environment
