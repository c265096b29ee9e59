"""A real SLURM of one emulated node, brought up for the tests that need it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "slurm"


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Yield the environment in which SLURM's commands reach the emulated cluster.

    Skips, with the reason, where none can be brought up: that takes root, and Debian's packages or apt.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("an emulated SLURM needs root on Debian")
    folder, number = tempfile.mkdtemp(prefix="slab.", dir="/tmp"), os.getpid()
    settings = {
        "SLURM_LAB": folder,
        "LAB_ID": f"s{number % 1000000}",
        "NODE_PREFIX": f"s{number % 1000000}n",
        "SUBNET": f"10.{64 + number % 128}.{number // 128 % 256}",
        **{"NODES": "1", "CPUS": "4", "PREEMPT_PARTITION": "low", "PREEMPT_GRACE": "20", "KILL_WAIT": "20"},
    }
    environment = os.environ | settings
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
