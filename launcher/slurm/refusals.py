"""What SLURM refuses or holds back, with the key that decides it and what the cluster has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.core.types import Json
from launcher.slurm.queue import JobState

if TYPE_CHECKING:
    from launcher.settings.cluster import Resources, Slurm  # which imports hydra, that `launcher status` does without


@dataclass(frozen=True)
class Remedy:
    """The settings that decide something, and the format by which sinfo lists what there is of it."""

    keys: tuple[str, ...]
    has: str = ""
    listed: str = ""
    asks: str = ""
    """What lists the accepted values, where sinfo does not."""


ACCOUNTS = "sacctmgr show associations user=$USER format=account,partition,qos"
SIZE = ("cpus_per_process", "cpus_per_task", "mem_gb", "gpus_per_node", "nodes")
NODES = Remedy(SIZE, "nodes with", "%c CPUs, %m MB")
REFUSALS = {
    r"invalid partition": Remedy(("partition",), "partitions", "%R"),
    r"account": Remedy(("account",), asks=ACCOUNTS),
    r"qos": Remedy(("qos",), asks=ACCOUNTS),
    r"generic resource|gres": Remedy(("gpus_per_node",), "GPUs", "%G"),
    r"feature": Remedy(("constraint",), "features", "%f"),
    r"node name": Remedy(("additional_parameters",), "nodes", "%n"),
    r"time limit": Remedy(("timeout_min",), "time limits", "%P %l"),
    r"memory specification": Remedy(("mem_gb",), "nodes with", "%m MB"),
    r"cpu count|processors": Remedy(("cpus_per_process", "cpus_per_task"), "nodes with", "%c CPUs"),
    r"more nodes|node count|too many nodes": Remedy(("nodes",), "nodes", "%D in %R"),
    r"node configuration": NODES,
}
"""What sbatch says, by pattern; the first one found counts."""

WAITS = {
    "PartitionConfig": ("no node of the partition is that large", NODES),
    "PartitionNodeLimit": ("the partition has fewer nodes, or allows fewer", Remedy(("nodes",), "nodes", "%D in %R")),
    "PartitionTimeLimit": ("the partition's limit is shorter", Remedy(("timeout_min",), "time limits", "%P %l")),
    "PartitionDown": ("the partition takes no jobs now", Remedy(("partition",), "partitions", "%R %a")),
    "PartitionInactive": ("the partition takes no jobs now", Remedy(("partition",), "partitions", "%R %a")),
    "BadConstraints": ("no node satisfies it", NODES),
    "AccountNotAllowed": ("the partition refuses the account", Remedy(("account", "partition"), asks=ACCOUNTS)),
    "InvalidAccount": ("there is no such account", Remedy(("account",), asks=ACCOUNTS)),
    "InvalidQOS": ("there is no such QOS", Remedy(("qos",), asks=ACCOUNTS)),
    "ReqNodeNotAvail": ("the node is down, drained or reserved", Remedy((), "nodes", "%n %t")),
}
"""Reasons for which a job waits until someone changes something, by their beginning."""


def explained(lines: str, slurm: Slurm, needs: Resources) -> str:
    """Return what sbatch said, the settings that it is about, and what the cluster has."""
    said = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in lines.splitlines() if "error" in line.lower()]
    said = [re.sub(r"^Batch job submission failed: ", "", line) for line in said] or lines.strip().splitlines()[-1:]
    remedy = next((found for line in said for text, found in REFUSALS.items() if re.search(text, line, re.I)), None)
    parts = [": ".join(dict.fromkeys(said)) or "no reason given"]
    return "; ".join([*parts, *(_told(remedy, _values(slurm, needs)) if remedy else [])])


def hint(state: JobState) -> str:
    """Return what a job waits for, if that does not come by waiting; else an empty text."""
    if state.name != "PENDING":
        return ""
    for reason, (why, remedy) in WAITS.items():
        if state.reason.startswith(reason):
            keys = [f"it depends on {', '.join(f'cluster.{key}' for key in remedy.keys)}"] if remedy.keys else []
            return "; ".join([why, *keys, *_told(Remedy((), remedy.has, remedy.listed, remedy.asks), {})])
    return ""


def _values(slurm: Slurm, needs: Resources) -> dict[str, Json]:
    """Return the settings of the job's resources and place, with what was derived for those that were not given."""
    derived = {"mem_gb": needs.mem_gb, "nodes": needs.nodes, "cpus_per_task": needs.cpus}
    given = {key: getattr(slurm, key) for remedy in REFUSALS.values() for key in remedy.keys}
    return given | {key: given[key] or value for key, value in derived.items()}


def _told(remedy: Remedy, values: Mapping[str, Json]) -> list[str]:
    """Return the settings with their values, and what there is."""
    given = ", ".join(f"cluster.{key}={values[key]}" for key in remedy.keys if values.get(key))
    there = ", ".join(_sinfo(remedy.listed)) if remedy.listed else ""
    has = [f"the cluster has {remedy.has} {there}"] if there else []
    return [*([given] if given else []), *has, *([f"this lists yours: {remedy.asks}"] if remedy.asks else [])]


def _sinfo(listed: str) -> list[str]:
    """Return what sinfo lists; nothing where it does not answer."""
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format", listed], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = (line.strip().replace("(null)", "none") for line in done.stdout.splitlines())
    return list(dict.fromkeys(filter(None, found)))
