"""The memory that a job needs where none is given: what its processes hold, read from the checkpoint's metadata."""

from __future__ import annotations

from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.pipeline.config import Run
from launcher.settings.cluster import Slurm
from launcher.settings.component import name_of

LIBRARIES_GIB = {"cpu": 1.0, "cuda": 4.0}
"""What Python, torch and, on a GPU, CUDA take in each process beside the model."""

OPTIONS = ("mem", "mem_per_cpu", "mem_per_gpu")
"""Options of sbatch that say it in another way."""


def per_process_gib(run: Run, slurm: Slurm) -> float | None:
    """Return the GiB of host memory that each of the model's processes needs while it loads and serves.

    Its share of the weights twice, as read and as loaded (on a GPU once, as read), and `LIBRARIES_GIB`. On a CPU also
    the cache and the packed copy of the output layer. None if the user gives it, if no engine loads anything, or if the
    checkpoint cannot be read here. None also with Ray, whose own processes were not measured.
    """
    options = {name.replace("-", "_") for name in slurm.additional_parameters}
    if slurm.mem_gb or slurm.mem_gb_per_node or options & set(OPTIONS) or name_of(run.backend) == "ray":
        return None
    own, judge = _held_gib(_facts(run, slurm), slurm), run.used_judge
    if judge is None or not judge.serves or own is None:
        return own
    deployment = judge.deployment(Path())
    return own + (_held_gib(_facts_of(deployment, slurm), slurm) or 0.0)


def _held_gib(facts: dict[str, Json], slurm: Slurm) -> float | None:
    held: dict[str, Json] = facts.get("memory_gib_per_rank") or {}
    if not isinstance(held.get("weights"), int | float):
        return None
    if slurm.gpus_per_node:
        return float(held["weights"]) + LIBRARIES_GIB["cuda"]
    others = [held.get(name) for name in ("kv_cache", "packed_output")]
    return 2 * float(held["weights"]) + sum(each or 0.0 for each in others) + LIBRARIES_GIB["cpu"]


def _facts(run: Run, slurm: Slurm) -> dict[str, Json]:
    return _facts_of(run.deployment(Path()), slurm)


def _facts_of(deployment: Deployment, slurm: Slurm) -> dict[str, Json]:
    world = deployment.parallelism.world_size
    there = Allocation(("job",), 0, 1, cpus=world, gpus=world if slurm.gpus_per_node else 0)
    try:
        return deployment.engine.plan(deployment, there)
    except UserError:  # the job says it: it may see files that a login node does not
        return {}
