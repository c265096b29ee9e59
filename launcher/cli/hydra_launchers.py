"""The rules between Hydra's launcher and where a run happens."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.pipeline.config import plain
from launcher.settings.cluster import Slurm

SHARED = "hydra_plugins.shared_launcher.SharedLauncher"
"""The launcher whose points share a deployment."""

STOCK = {
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
}
"""hydra-submitit-launcher's, by class: each point is a run of its own in a process of its own."""

CHOOSERS = tuple(f"hydra_plugins.hydra_{name}_sweeper." for name in ("optuna", "ax", "nevergrad"))
"""Sweepers that choose their points by the results of others, by the beginning of the class's name."""

SAME = frozenset(
    {
        *("partition", "account", "qos", "constraint", "nodes", "gpus_per_node", "cpus_per_task", "mem_gb"),
        *("timeout_min", "signal_delay_s", "setup", "array_parallelism", "name", "srun_args"),
    }
)
"""Keys of hydra-submitit-launcher that ``cluster`` has too, by the same name."""

OTHER = {"max_num_timeout": "requeues"}
"""Those that have another name there."""

OPTIONS = frozenset({"comment", "exclude", "gres", "mem_per_gpu", "mem_per_cpu"})
"""Those that are options of sbatch."""

INSTEAD = {
    "tasks_per_node": "the tasks follow from parallelism and cluster.nodes",
    "gpus_per_task": "the GPUs follow from parallelism; cluster.gpus_per_node says how many a node has",
    "cpus_per_gpu": "use cluster.cpus_per_process",
    "stderr_to_stdout": "both are shown as they come, and kept in slurm/ of the run folder",
    "submitit_folder": "a job writes into slurm/ of its run folder; use hydra.run.dir or hydra.sweep.dir",
}
"""Those that have no meaning here, with what has."""

HARMLESS = {"tasks_per_node": 1, "stderr_to_stdout": False}
"""Values of those that only say what is the case."""


KEYS = SAME | OTHER.keys() | OPTIONS | INSTEAD.keys() | {"additional_parameters"}


def launcher_keys(hydra_config: Any) -> dict[str, Json]:
    """Return the keys of ``hydra.launcher``."""
    return plain(hydra_config.launcher, resolve=False)


def check(settings: Mapping[str, Json], submitted: bool) -> None:
    """Refuse a launcher that cannot work with the place of a run: ``submitted`` means ``cluster=slurm``.

    ``settings`` are the keys of ``hydra.launcher``. Raises `UserError`.
    """
    name = STOCK.get(settings["_target_"])
    if name and submitted:
        raise UserError(
            f"hydra/launcher={name}: cluster=slurm submits by itself; leave the launcher out, or choose cluster=local"
        )
    for key, value in queue_keys(settings).items():
        _check_key(key, value, submitted)


def _check_key(key: str, value: Json, submitted: bool) -> None:
    if key not in KEYS:
        raise UserError(f"hydra.launcher.{key}: no such key; accepted are {', '.join(sorted(KEYS - INSTEAD.keys()))}")
    if not submitted:
        raise UserError(
            f"hydra.launcher.{key}={value}: cluster=local submits nothing; "
            "add cluster=slurm, or hydra/launcher=submitit_slurm for points of their own"
        )
    if key in INSTEAD and value != HARMLESS.get(key):
        raise UserError(f"hydra.launcher.{key}={value}: not with cluster=slurm: {INSTEAD[key]}")
    if key == "gres" and "gpu" in str(value):
        raise UserError(f"hydra.launcher.gres={value}: not with cluster=slurm: {INSTEAD['gpus_per_task']}")


def chooses(sweeper: Mapping[str, Json]) -> bool:
    """Tell whether a sweeper, whose keys are given, needs the results of its points."""
    return str(sweeper["_target_"]).startswith(CHOOSERS)


def check_sweeper(sweeper: Mapping[str, Json], cluster: Mapping[str, Json]) -> None:
    """Refuse, before a sweep begins, jobs that nobody waits for where their results are needed. Raises `UserError`."""
    if chooses(sweeper) and cluster.get("wait") is False:
        raise UserError("cluster.wait=false: this sweeper chooses its points by results; accepted is true")


def check_sweep(settings: Mapping[str, Json], plans: bool) -> None:
    """Refuse, before a sweep begins, what hydra-submitit-launcher would not do as it is asked.

    ``plans`` means ``mode=plan``. Raises `UserError`.
    """
    name = STOCK.get(settings["_target_"])
    if name is None:
        return
    if plans:
        raise UserError(f"mode=plan: hydra/launcher={name} would submit it; leave the launcher out to see the plan")
    for key in ("nodes", "tasks_per_node"):
        if settings[key] != 1:
            raise UserError(
                f"hydra.launcher.{key}={settings[key]}: with hydra/launcher={name} a point is one process; "
                "accepted is 1. cluster=slurm spreads a model over tasks and nodes"
            )
    if name == "submitit_slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(f"hydra/launcher={name}: there is no sbatch and srun on this machine; submit from a login node")


def queue_keys(settings: Mapping[str, Json]) -> dict[str, Json]:
    """Return the keys of hydra-submitit-launcher that our own launcher was given."""
    if settings["_target_"] != SHARED:
        return {}
    other = ("_target_", "resume")
    return {key: value for key, value in settings.items() if key not in other and value not in (None, {})}


def translated(settings: Mapping[str, Json], cluster: Mapping[str, Json], given: Collection[str]) -> dict[str, Json]:
    """Return what those keys say in the words of ``cluster``, whose values they replace.

    ``given`` are the keys, in full, that were given besides. Raises `UserError` for a key that is given both ways with
    different values.
    """
    defaults, found = asdict(Slurm()), dict[str, Json]()
    options: dict[str, Json] = dict(cluster["additional_parameters"])
    for key, value in queue_keys(settings).items():
        name = OTHER.get(key, key)
        if key in SAME or key in OTHER:
            asked = f"cluster.{name}" in given or cluster[name] != defaults[name]
            _same(key, value, f"cluster.{name}", cluster[name] if asked else value)
            found[name] = value
        for option, setting in value.items() if key == "additional_parameters" else [(key, value)]:
            if key in OPTIONS or key == "additional_parameters":
                _same(key, setting, f"cluster.additional_parameters.{option}", options.get(option, setting))
                options[option] = setting
    return found | {"additional_parameters": options}


def _same(key: str, value: Json, name: str, other: Json) -> None:
    if str(value) != str(other):
        raise UserError(f"hydra.launcher.{key}={value}: {name}={other} is given too; leave one of them out")
