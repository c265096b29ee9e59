"""The nodes, rank and devices of this process, from its environment."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from launcher.core.errors import UserError
from launcher.core.logs import LogFile

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Member:
    """One process of a group as it describes itself: its rank, its node, its number there, the GPUs that it sees."""

    rank: int
    node: str
    local_rank: int
    gpus: int


class Ranks(Protocol):
    """The other ranks of an allocation, as rank 0 controls them."""

    address: str
    """The address of rank 0, which the other ranks reach."""

    def wait(self) -> Sequence[Member]:
        """Return the members of ranks 1 and above, once all have joined. Raises `ServerError` for missing ones."""

    def start(self, rank: int, module: str, environment: Mapping[str, str], log: LogFile | None = None) -> Connection:
        """Run a module as a child of a rank's agent, whose output goes to a log; return a connection to it.

        Raises `ServerError`.
        """

    def stop(self, rank: int, grace_s: float, *, wait: bool = True) -> None:
        """End a rank's child and kill it after ``grace_s`` seconds; with ``wait`` return when it has ended."""


@dataclass(frozen=True)
class Allocation:
    """The machines of a run as this process sees them. ``rank`` counts processes from 0; rank 0 leads.

    ``cpus`` and ``gpus`` are available to this process: the CPUs that it is bound to, limited by its control group and
    by SLURM. If SLURM or torchrun started several processes, ``name`` identifies their group, and ``local_rank`` counts
    the processes of one node. ``reach`` is a host of the network over which rank 0 takes its address. ``ranks`` is set
    once rank 0 listens to them.
    """

    nodes: tuple[str, ...]
    rank: int
    world_size: int
    cpus: int
    gpus: int
    local_rank: int = 0
    name: str = ""
    reach: str = LOOPBACK
    ranks: Ranks | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def member(self) -> Member:
        """Describe this process."""
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        return Member(self.rank, node, self.local_rank, self.gpus)

    def cpus_of_a_rank(self, world_size: int) -> int:
        """Return the CPUs of each of a model's processes: this process shares its own with those that it starts."""
        return self.cpus if self.ranks is not None else max(1, self.cpus // world_size)


def allocate(environment: Mapping[str, str] = os.environ) -> Allocation:
    """Return this process's place: among those that torchrun or a step of SLURM started together, or alone on its host.

    Raises `UserError` for an environment that makes no sense.
    """
    e, gpus = environment, _gpus(environment)
    try:
        cpus = _cpus(e)
        if int(e.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= e.keys():
            return _torchrun(e, cpus, gpus)
        # Of a batch script, SLURM_NTASKS says how many tasks its steps would have: only a step's variables count.
        if int(e.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in e:
            return _slurm(e, cpus, gpus)
    except (KeyError, ValueError) as error:
        raise UserError(f"the environment of torchrun or SLURM makes no sense: {error!r}") from None
    return Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=cpus, gpus=gpus)


def _torchrun(e: Mapping[str, str], cpus: int, gpus: int) -> Allocation:
    world, local = int(e["WORLD_SIZE"]), int(e.get("LOCAL_WORLD_SIZE", "1"))
    keys = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    return Allocation(
        nodes=(e["MASTER_ADDR"], *(f"node {n}" for n in range(1, -(-world // local)))),
        rank=int(e["RANK"]),
        world_size=world,
        cpus=max(1, cpus // local),
        gpus=gpus,
        local_rank=int(e.get("LOCAL_RANK", "0")),
        name=_name("torchrun", [e.get(key, "0") for key in keys]),
        reach=LOOPBACK if world == local else e["MASTER_ADDR"],
    )


def _slurm(e: Mapping[str, str], cpus: int, gpus: int) -> Allocation:
    nodes, world = expand(e["SLURM_STEP_NODELIST"]), int(e["SLURM_STEP_NUM_TASKS"])
    job = [e["SLURM_JOB_ID"], e["SLURM_STEP_ID"], e.get("SLURM_RESTART_COUNT", "0")]
    # Without a task plugin that binds, a task sees all CPUs of its node.
    own = int(e.get("SLURM_CPUS_PER_TASK", "0")) or cpus // -(-world // len(nodes))
    return Allocation(
        nodes=nodes,
        rank=int(e["SLURM_PROCID"]),
        world_size=world,
        cpus=max(1, min(cpus, own)),
        gpus=gpus,
        local_rank=int(e["SLURM_LOCALID"]),
        name=_name("slurm", job),
        reach=nodes[1] if len(nodes) > 1 else LOOPBACK,
    )


def _name(kind: str, parts: Sequence[str]) -> str:
    return "-".join([kind, *(re.sub(r"[^\w.]", "_", part) for part in parts)])


def expand(nodes: str) -> tuple[str, ...]:
    """Return the names in SLURM's notation: ``a[01-03,7],b`` is a01, a02, a03, a7 and b."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        pieces = re.split(r"\[([^\]]*)\]", part)  # text and numbers take turns
        choices = [_numbers(piece) if n % 2 else [piece] for n, piece in enumerate(pieces)]
        found += map("".join, product(*choices))
    return tuple(found)


def _numbers(ranges: str) -> list[str]:
    found: list[str] = []
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        found += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return found


def _cpus(environment: Mapping[str, str]) -> int:
    """Count the CPUs of this process: those it is bound to, at most what its control group and SLURM grant.

    Without a task plugin SLURM binds no CPUs, and gives only the number of a job's CPUs on this node.
    """
    granted = [len(os.sched_getaffinity(0)), int(environment.get("SLURM_CPUS_ON_NODE") or sys.maxsize)]
    return max(1, min([*granted, *quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]))


def quotas(own: Path, root: Path) -> list[int]:
    """Return the CPUs, rounded up, that control groups grant; ``own`` lists this process's groups, below ``root``.

    A container sees its own group as the root. Both versions of control groups are read. In version 2, ``cpu.max`` is
    "quota period" in microseconds, or "max". Version 1 has one file for each; a quota of -1 means none.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found: list[int] = []
    for _, controllers, path in lines:
        if not controllers:
            found += [n for folder in _upwards(root, path) for n in _quota(_words(folder / "cpu.max"))]
        elif "cpu" in controllers.split(","):
            files = "cpu.cfs_quota_us", "cpu.cfs_period_us"
            for folder in _upwards(root / "cpu", path):
                found += _quota([word for name in files for word in _words(folder / name)])
    return found


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the folders of a group and of all its parents; the smallest quota holds."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [root.joinpath(*parts[:n]) for n in range(len(parts) + 1)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _quota(words: Sequence[str]) -> list[int]:
    if len(words) != 2 or not words[0].isdecimal() or int(words[1]) <= 0:
        return []
    return [max(1, -(-int(words[0]) // int(words[1])))]


def _gpus(environment: Mapping[str, str]) -> int:
    """Count GPUs without importing torch: `CUDA_VISIBLE_DEVICES`, else the device files of the NVIDIA driver."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() not in ("", "-1")])
    try:
        return len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
