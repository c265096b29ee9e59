"""The resources that the replicas need, counted before Ray starts."""

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
"""The tolerance for sums of shares of a CPU or a GPU."""


@dataclass(frozen=True)
class Node:
    """The resources of one machine that replicas may use."""

    cpus: float
    gpus: float


def count(
    request: ResourceRequest, nodes: Sequence[Node], facts: Mapping[str, Json], place: str = "this allocation"
) -> ResourceShare:
    """Return what each replica gets; each is on one of the ``nodes``.

    ``facts`` is what the engine's plan says. Raises `UserError` with the count when there is too little.
    """
    gpus = request.world * request.gpus if facts.get("device") == "cuda" else 0.0
    cpus = request.world * (request.cpus or 0.0)
    _check_resource(request, gpus, "GPUs", [node.gpus for node in nodes], place)
    _check_resource(request, cpus, "CPUs", [node.cpus for node in nodes], place)
    even = min(node.cpus for node in nodes) / ceil(request.replicas / len(nodes))
    return ResourceShare(even if request.cpus is None else cpus, gpus)


def replicas_per_node(replicas: int, nodes: int) -> tuple[int, ...]:
    """Return how many replicas each node holds; the numbers differ by one at most."""
    minimum, more = divmod(replicas, nodes)
    return tuple(minimum + (n < more) for n in range(nodes))


def _check_resource(request: ResourceRequest, each: float, kind: str, available: Sequence[float], place: str) -> None:
    if not each:
        return
    need, plural = request.replicas * each, "s" if request.replicas > 1 else ""
    asked = f"backend.replicas={request.replicas}: {request.replicas} replica{plural}"
    hint = f"backend.{kind.lower()}_per_rank={each / request.world:g} is for one rank"
    if need > sum(available) + TINY:
        raise UserError(
            f"{asked} x {each:g} {kind} need{'' if plural else 's'} {need:g}, {place} has {sum(available):g}; {hint}"
        )
    capacity = sum(int(one / each + TINY) for one in available)
    if capacity < request.replicas:
        nodes = ", ".join(f"{one:g}" for one in available)
        raise UserError(f"{asked} of {each:g} {kind}, each within a node: nodes with {nodes} hold {capacity}; {hint}")


def check_memory(request: ResourceRequest, facts: Mapping[str, Json], free_gib: float | None) -> None:
    """Raise `UserError` if the replicas on the CPUs of this machine need more than its ``free_gib`` (None: unknown)."""
    per_rank = facts.get("memory_gib_per_rank")
    if facts.get("device") == "cuda" or not isinstance(per_rank, Mapping) or free_gib is None:
        return
    each = request.world * sum(value for value in per_rank.values() if isinstance(value, int | float))
    need = request.replicas * each
    if need > free_gib:
        raise UserError(
            f"backend.replicas={request.replicas}: {request.replicas} replicas x {each:.3g} GiB of memory need "
            f"{need:.3g} GiB, this machine has {free_gib:.3g} GiB free"
        )


def available_gib(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Return the memory available without swapping (``MemAvailable`` of proc(5), in KiB); None where it is unknown."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("MemAvailable:")), None)
