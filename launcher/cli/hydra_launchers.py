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
"""The launcher whose points share servers."""

SUBMITIT_LAUNCHERS = {
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
}
"""The launchers of hydra-submitit-launcher by class; each point is a run in its own process."""

ADAPTIVE_SWEEPERS = tuple(f"hydra_plugins.hydra_{name}_sweeper." for name in ("optuna", "ax", "nevergrad"))
"""The class names of sweepers that choose points by earlier results begin so."""

SAME_KEYS = frozenset(
    {
        *("partition", "account", "qos", "constraint", "nodes", "gpus_per_node", "cpus_per_task", "mem_gb"),
        *("timeout_min", "signal_delay_s", "setup", "array_parallelism", "name", "srun_args"),
    }
)
"""Keys of hydra-submitit-launcher that ``cluster`` has too, by the same name."""

RENAMED_KEYS = {"max_num_timeout": "requeues"}
"""Keys that ``cluster`` has by another name."""

SBATCH_OPTIONS = frozenset({"comment", "exclude", "gres", "mem_per_gpu", "mem_per_cpu"})
"""Keys that are options of sbatch."""

REPLACEMENTS = {
    "tasks_per_node": "the tasks follow from parallelism and cluster.nodes",
    "gpus_per_task": "the GPUs follow from parallelism; cluster.gpus_per_node says how many a node has",
    "cpus_per_gpu": "use cluster.cpus_per_process",
    "stderr_to_stdout": "both are shown as they come, and kept in slurm/ of the run folder",
    "submitit_folder": "a job writes into slurm/ of its run folder; use hydra.run.dir or hydra.sweep.dir",
}
"""Keys without an effect here, each with its replacement."""

NO_OP_VALUES = {"tasks_per_node": 1, "stderr_to_stdout": False}
"""Values of those keys that change nothing."""


KEYS = SAME_KEYS | RENAMED_KEYS.keys() | SBATCH_OPTIONS | REPLACEMENTS.keys() | {"additional_parameters"}


def launcher_keys(hydra_config: Any) -> dict[str, Json]:
    """Return the keys of ``hydra.launcher``."""
    return plain(hydra_config.launcher, resolve=False)


def check(settings: Mapping[str, Json], submitted: bool) -> None:
    """Refuse a launcher that cannot work with the place of a run: ``submitted`` means ``cluster=slurm``.

    ``settings`` are the keys of ``hydra.launcher``. Raises `UserError`.
    """
    name = SUBMITIT_LAUNCHERS.get(settings["_target_"])
    if name and submitted:
        raise UserError(
            f"hydra/launcher={name}: cluster=slurm submits by itself; leave the launcher out, or choose cluster=local"
        )
    for key, value in queue_keys(settings).items():
        _check_key(key, value, submitted)


def _check_key(key: str, value: Json, submitted: bool) -> None:
    if key not in KEYS:
        raise UserError(
            f"hydra.launcher.{key}: no such key; expected one of {', '.join(sorted(KEYS - REPLACEMENTS.keys()))}"
        )
    if not submitted:
        raise UserError(
            f"hydra.launcher.{key}={value}: cluster=local submits nothing; "
            "add cluster=slurm, or hydra/launcher=submitit_slurm for points of their own"
        )
    if key in REPLACEMENTS and value != NO_OP_VALUES.get(key):
        raise UserError(f"hydra.launcher.{key}={value}: not with cluster=slurm: {REPLACEMENTS[key]}")
    if key == "gres" and "gpu" in str(value):
        raise UserError(f"hydra.launcher.gres={value}: not with cluster=slurm: {REPLACEMENTS['gpus_per_task']}")


def check_run(settings: Mapping[str, Json]) -> None:
    """Refuse, for one run, a launcher of jobs, which Hydra uses for the points of sweeps alone. Raises `UserError`."""
    name = SUBMITIT_LAUNCHERS.get(settings["_target_"])
    if name is not None:
        raise UserError(f"hydra/launcher={name}: it submits the points of sweeps; add -m, or cluster=slurm for one run")


def needs_results(sweeper: Mapping[str, Json]) -> bool:
    """Tell whether a sweeper, whose keys are given, needs the results of its points."""
    return str(sweeper["_target_"]).startswith(ADAPTIVE_SWEEPERS)


def check_sweeper(sweeper: Mapping[str, Json], cluster: Mapping[str, Json]) -> None:
    """Refuse, before a sweep begins, ``cluster.wait=false`` for a sweeper that needs results. Raises `UserError`."""
    if needs_results(sweeper) and cluster.get("wait") is False:
        raise UserError("cluster.wait=false: this sweeper needs each point's result; set cluster.wait=true")


def check_sweep(settings: Mapping[str, Json], plans: bool) -> None:
    """Refuse, before a sweep begins, settings that hydra-submitit-launcher would not follow.

    ``plans`` means ``mode=plan``. Raises `UserError`.
    """
    name = SUBMITIT_LAUNCHERS.get(settings["_target_"])
    if name is None:
        return
    if plans:
        raise UserError(f"mode=plan: hydra/launcher={name} would submit it; leave the launcher out to see the plan")
    for key in ("nodes", "tasks_per_node"):
        if settings[key] != 1:
            raise UserError(
                f"hydra.launcher.{key}={settings[key]}: with hydra/launcher={name} a point is one process; "
                "must be 1; cluster=slurm spreads a model over tasks and nodes"
            )
    if name == "submitit_slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(f"hydra/launcher={name}: there is no sbatch and srun on this machine; submit from a login node")


def queue_keys(settings: Mapping[str, Json]) -> dict[str, Json]:
    """Return the keys of hydra-submitit-launcher that our own launcher was given."""
    if settings["_target_"] != SHARED:
        return {}
    other = ("_target_", "resume")
    return {key: value for key, value in settings.items() if key not in other and value not in (None, {})}


def as_cluster_keys(
    settings: Mapping[str, Json], cluster: Mapping[str, Json], given: Collection[str]
) -> dict[str, Json]:
    """Translate the queue keys into keys of ``cluster``, whose values they replace.

    ``given`` are the keys, in full, that were given besides. Raises `UserError` for a key that is given both ways with
    different values.
    """
    defaults, found = asdict(Slurm()), dict[str, Json]()
    options: dict[str, Json] = dict(cluster["additional_parameters"])
    for key, value in queue_keys(settings).items():
        name = RENAMED_KEYS.get(key, key)
        if key in SAME_KEYS or key in RENAMED_KEYS:
            asked = f"cluster.{name}" in given or cluster[name] != defaults[name]
            _check_same_value(key, value, f"cluster.{name}", cluster[name] if asked else value)
            found[name] = value
        for option, setting in value.items() if key == "additional_parameters" else [(key, value)]:
            if key in SBATCH_OPTIONS or key == "additional_parameters":
                _check_same_value(key, setting, f"cluster.additional_parameters.{option}", options.get(option, setting))
                options[option] = setting
    return found | {"additional_parameters": options}


def _check_same_value(key: str, value: Json, name: str, other: Json) -> None:
    if str(value) != str(other):
        raise UserError(f"hydra.launcher.{key}={value}: {name}={other} is given too; leave one of them out")
