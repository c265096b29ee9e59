"""What a fleet of replicas needs, counted before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from launcher.backends.ray.driver_config import ResourceRequest, ResourceShare
from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.core.units import GIB

TINY = 1e-6
"""Shares of a CPU or a GPU are no exact numbers."""


@dataclass(frozen=True)
class Node:
    """What replicas may have of one machine."""

    cpus: float
    gpus: float


def count(
    demand: ResourceRequest, nodes: Sequence[Node], facts: Mapping[str, Json], place: str = "this allocation"
) -> ResourceShare:
    """Return what each replica gets; each is on one of the ``nodes``.

    ``facts`` is what the engine's plan says. Raises `UserError` with the count when there is too little.
    """
    gpus = demand.world * demand.gpus if facts.get("device") == "cuda" else 0.0
    cpus = demand.world * (demand.cpus or 0.0)
    _enough(demand, gpus, "GPUs", [node.gpus for node in nodes], place)
    _enough(demand, cpus, "CPUs", [node.cpus for node in nodes], place)
    even = min(node.cpus for node in nodes) / ceil(demand.replicas / len(nodes))
    return ResourceShare(even if demand.cpus is None else cpus, gpus)


def rooms(replicas: int, nodes: int) -> tuple[int, ...]:
    """Return how many replicas each node holds: as even as can be."""
    least, more = divmod(replicas, nodes)
    return tuple(least + (n < more) for n in range(nodes))


def _enough(demand: ResourceRequest, each: float, kind: str, there: Sequence[float], place: str) -> None:
    if not each:
        return
    need, plural = demand.replicas * each, "s" if demand.replicas > 1 else ""
    asked = f"backend.replicas={demand.replicas}: {demand.replicas} replica{plural}"
    hint = f"backend.{kind.lower()}_per_rank={each / demand.world:g} is for one rank"
    if need > sum(there) + TINY:
        raise UserError(
            f"{asked} x {each:g} {kind} need{'' if plural else 's'} {need:g}, {place} has {sum(there):g}; {hint}"
        )
    room = sum(int(one / each + TINY) for one in there)
    if room < demand.replicas:
        nodes = ", ".join(f"{one:g}" for one in there)
        raise UserError(f"{asked} of {each:g} {kind}, each within a node: nodes with {nodes} hold {room}; {hint}")


def check_memory(demand: ResourceRequest, facts: Mapping[str, Json], free_gib: float | None) -> None:
    """Raise `UserError` if the replicas on the CPUs of this machine need more than its ``free_gib`` (None: unknown)."""
    per_rank = facts.get("memory_gib_per_rank")
    if facts.get("device") == "cuda" or not isinstance(per_rank, Mapping) or free_gib is None:
        return
    each = demand.world * sum(value for value in per_rank.values() if isinstance(value, int | float))
    need = demand.replicas * each
    if need > free_gib:
        raise UserError(
            f"backend.replicas={demand.replicas}: {demand.replicas} replicas x {each:.3g} GiB of memory need "
            f"{need:.3g} GiB, this machine has {free_gib:.3g} GiB free"
        )


def available_gib(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Return the memory available without swapping (``MemAvailable`` of proc(5), in KiB); None where it is unknown."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("MemAvailable:")), None)
