"""Where we run: nodes, rank and devices, from the environment of this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Allocation:
    """The machines of a run as this process sees them. ``rank`` counts processes from 0; rank 0 leads."""

    nodes: tuple[str, ...]
    rank: int
    world_size: int
    cpus: int
    gpus: int

    @property
    def leads(self) -> bool:
        return self.rank == 0


def allocate() -> Allocation:
    """Return the allocation of this host: one node, one rank, the CPUs and GPUs that this process may use."""
    return Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=len(os.sched_getaffinity(0)), gpus=_gpus())


def _gpus() -> int:
    """Count GPUs without importing torch: `CUDA_VISIBLE_DEVICES`, else the device files of the NVIDIA driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() not in ("", "-1")])
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
