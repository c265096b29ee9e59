"""Where a run happens: in this process, or in a job of SLURM."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from launcher.core.errors import UserError
from launcher.core.ranges import Count, CountFromZero, Positive, Seconds
from launcher.settings.component import component
from launcher.settings.model import Parallelism


class Spread(Enum):
    """What a backend can spread over several nodes: nothing, the processes of one model, or whole replicas."""

    none = "none"
    model = "model"
    replicas = "replicas"


@dataclass
class Cluster:
    """The configuration of the place; a component of the group ``cluster``."""


@component("cluster/local")
class Local(Cluster):
    """This machine, in this process."""


class Runtime(Enum):
    """What runs a job's container: srun's plugin ``pyxis`` (enroot), ``apptainer``, or its older name."""

    pyxis = "pyxis"
    apptainer = "apptainer"
    singularity = "singularity"


@component("cluster/slurm")
class Slurm(Cluster):
    """A job of SLURM, submitted through submitit.

    One model, or its replicas, may be spread over several ``nodes``; each node holds whole stages of the model's
    pipeline. ``gpus_per_node`` is the number of GPUs of a node (0: none); with it the job asks for one GPU per process.
    Each process gets ``cpus_per_process`` CPUs, unless ``cpus_per_task`` sets those of each task. ``mem_gb`` is the
    memory per node in GiB (null: what the model's processes need; the cluster's default if the checkpoint cannot be
    read). ``cpus_per_node`` and ``mem_gb_per_node`` are the CPUs and the memory of a whole node; the job's share of
    them is its share of the GPUs. ``timeout_min`` is the job's time limit in minutes, ``name`` its name.

    ``partition``, ``account``, ``qos`` and ``constraint`` are the options of sbatch with these names. With
    ``exclusive`` the job shares its nodes with no other. ``setup`` are shell commands before the job.
    ``additional_parameters`` are other options of sbatch by their long names (true: without a value), ``srun_args``
    those of srun. ``array_parallelism`` bounds how many jobs of a sweep run at once (null: all). With ``wait`` the
    launcher follows the job to its end and polls every ``poll_s`` seconds. A job stops asking ``signal_delay_s``
    seconds before its time limit, or when it is preempted, and queues itself again, at most ``requeues`` times.

    ``environment`` names variables that the job needs. They must be set where it is submitted; their values are never
    written. With ``container_image`` the job runs in that image by ``container_runtime``. ``container_python`` is the
    image's Python, ``container_workdir`` the working directory (null: where it is submitted). The run folder, the
    checkpoint, the code and the submission's folder are mounted; ``container_mounts`` adds ``from``, or
    ``from:to[:options]``.
    """

    name: str = "launcher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    nodes: Count = 1
    gpus_per_node: CountFromZero = 0
    cpus_per_process: Count = 1
    cpus_per_task: Count | None = None
    cpus_per_node: Count | None = None
    mem_gb_per_node: Positive | None = None
    mem_gb: Positive | None = None
    timeout_min: Count = 60
    signal_delay_s: CountFromZero = 120
    requeues: CountFromZero = 3
    array_parallelism: Count | None = None
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    container_image: str | None = None
    container_runtime: Runtime = Runtime.pyxis
    container_mounts: list[str] = field(default_factory=list)
    container_workdir: str | None = None
    container_python: str = "python3"
    wait: bool = True
    poll_s: Seconds = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.environment, list):
            _check_environment(self.environment)
        _check_shape(self)
        _check_container(self)


def _check_shape(slurm: Slurm) -> None:
    if isinstance(slurm.timeout_min, int) and slurm.signal_delay_s >= 60 * slurm.timeout_min:
        raise UserError(
            f"cluster.timeout_min={slurm.timeout_min}: the job stops cluster.signal_delay_s={slurm.signal_delay_s} "
            "seconds before this limit, and so at once; a larger timeout_min or a smaller signal_delay_s is needed"
        )
    for name, instead in (("cpus_per_node", "cpus_per_task"), ("mem_gb_per_node", "mem_gb")):
        if getattr(slurm, name) and not slurm.gpus_per_node:
            raise UserError(
                f"cluster.{name}={getattr(slurm, name)}: a job's share of it follows from cluster.gpus_per_node, "
                f"which is 0; without GPUs, write cluster.{instead}"
            )


def _check_environment(names: list[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            told = name.partition("=")[0]  # what follows may be a secret
            raise UserError(
                f"cluster.environment: {told}: expected names of variables that are set here; "
                "a value that is no secret goes to cluster.setup=['export NAME=value']"
            )


def _check_container(slurm: Slurm) -> None:
    if not slurm.container_image:
        for name in ("container_mounts", "container_workdir"):
            if getattr(slurm, name):
                raise UserError(f"cluster.{name}={getattr(slurm, name)}: there is no cluster.container_image")
        return
    if isinstance(slurm.container_mounts, list):
        for mount in slurm.container_mounts:
            if "," in mount or not mount.startswith("/"):
                raise UserError(f"cluster.container_mounts: {mount}: expected /from, or /from:/to[:options]")
    if isinstance(slurm.srun_args, list) and any(word.startswith("--container-") for word in slurm.srun_args):
        raise UserError(
            "cluster.srun_args: --container-* and cluster.container_image exclude each other; leave one of them out"
        )


@dataclass(frozen=True)
class Resources:
    """What one job asks for: ``tasks`` on each of its ``nodes``.

    ``cpus`` are those of a task, ``gpus`` and ``mem_gb`` those of a node; None leaves the memory to the cluster.
    """

    cpus: int
    gpus: int
    nodes: int = 1
    tasks: int = 1
    mem_gb: float | None = None


NODE_GIB = 2.0
"""The memory of what a node has once, beside the model's processes: launcher, server, evaluation."""


def resources(
    slurm: Slurm,
    parallelism: Parallelism,
    replicas: int,
    spread: Spread = Spread.none,
    process_gib: float | None = None,
) -> Resources:
    """Derive what a job needs: one process per rank of each replica, each with ``process_gib`` of memory if known.

    On one node they belong to one task. Over several nodes each process of a model is a task, or each node is, if what
    it holds is whole replicas. Raises `UserError` for what the nodes cannot give.
    """
    if slurm.nodes > 1:
        _check_spread(slurm, parallelism, replicas, spread)
    here = -(-replicas // slurm.nodes) * parallelism.world_size
    if spread is not Spread.replicas:
        here = parallelism.world_size * replicas // slurm.nodes
    if slurm.gpus_per_node and here > slurm.gpus_per_node:
        raise UserError(
            f"parallelism: {here} processes on a node need as many GPUs, and cluster.gpus_per_node="
            f"{slurm.gpus_per_node}; more nodes are cluster.nodes"
        )
    tasks = here if slurm.nodes > 1 and spread is Spread.model else 1
    gpus = here if slurm.gpus_per_node else 0
    return Resources(_cpus(slurm, here, tasks), gpus, slurm.nodes, tasks, _memory(slurm, here, process_gib))


def _cpus(slurm: Slurm, processes: int, tasks: int) -> int:
    """Return the CPUs of a task, of which a node has ``tasks`` with ``processes`` in all."""
    if slurm.cpus_per_task:
        return slurm.cpus_per_task
    if slurm.cpus_per_node:
        return max(1, slurm.cpus_per_node * processes // slurm.gpus_per_node // tasks)
    return processes // tasks * slurm.cpus_per_process


def _memory(slurm: Slurm, processes: int, process_gib: float | None) -> float | None:
    if slurm.mem_gb:
        return slurm.mem_gb
    if slurm.mem_gb_per_node:
        return slurm.mem_gb_per_node * processes / slurm.gpus_per_node
    return None if process_gib is None else math.ceil(processes * process_gib + NODE_GIB)


def _check_spread(slurm: Slurm, parallelism: Parallelism, replicas: int, spread: Spread) -> None:
    asked = f"cluster.nodes={slurm.nodes}"
    if spread is Spread.none:
        raise UserError(f"{asked}: must be 1; this backend serves within one node")
    if spread is Spread.replicas and replicas < slurm.nodes:
        raise UserError(f"{asked}: each node holds whole replicas, and backend.replicas={replicas} leaves nodes empty")
    stage = parallelism.world_size // parallelism.pipeline
    if spread is Spread.model and parallelism.pipeline % slurm.nodes:
        raise UserError(
            f"{asked}: each node holds whole stages of the pipeline, of {stage} processes each; "
            f"parallelism.pipeline={parallelism.pipeline} must be a multiple of it"
        )
