"""What a fleet of replicas needs, counted before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.allocation import Allocation
from launcher.backends.ray.assignment import Share
from launcher.core import Json
from launcher.errors import UserError

GB = 1e9


def count(
    replicas: int, world: int, allocation: Allocation, facts: Mapping[str, Json], wanted: Share, of_cpus: bool
) -> Share:
    """Return what each replica gets: ``wanted`` per rank, or if not ``of_cpus`` an even share of all CPUs.

    ``facts`` is what the engine's plan says. Raises `UserError` with the count when the allocation has too little.
    """
    on_gpu = facts.get("device") == "cuda"
    if on_gpu:
        _enough(replicas, world, wanted.gpus, "GPUs", allocation.gpus, "gpus_per_rank")
    else:
        _memory(replicas, world, facts)
    if of_cpus:
        _enough(replicas, world, wanted.cpus, "CPUs", allocation.cpus, "cpus_per_rank")
    cpus = wanted.cpus * world if of_cpus else allocation.cpus / replicas
    return Share(cpus, wanted.gpus * world if on_gpu else 0)


def _enough(replicas: int, world: int, each: float, kind: str, there: float, key: str) -> None:
    need = replicas * world * each
    if need > there:
        raise UserError(
            f"backend.replicas={replicas}: {replicas} replicas x {world * each:g} {kind} need {need:g}, "
            f"this allocation has {there:g}; backend.{key}={each:g} is for one rank"
        )


def _memory(replicas: int, world: int, facts: Mapping[str, Json]) -> None:
    per_rank = facts.get("memory_gb_per_rank")
    free = available_gb()
    if not isinstance(per_rank, Mapping) or free is None:
        return
    each = world * sum(value for value in per_rank.values() if isinstance(value, int | float))
    need = replicas * each
    if need > free:
        raise UserError(
            f"backend.replicas={replicas}: {replicas} replicas x {each:.3g} GB of memory need {need:.3g} GB, "
            f"this machine has {free:.3g} GB free"
        )


def available_gb() -> float | None:
    """Return the memory that can be had without swapping (``MemAvailable`` of proc(5)), None where it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / GB for line in lines if line.startswith("MemAvailable:")), None)
