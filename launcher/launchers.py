"""The rules between Hydra's launcher and where a run happens."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from launcher.core import Json
from launcher.errors import UserError

SHARED = "hydra_plugins.shared_launcher.SharedLauncher"
"""The launcher whose points share a deployment."""

STOCK = {
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
}
"""hydra-submitit-launcher's, by class: each point is a run of its own in a process of its own."""


def check(settings: Mapping[str, Json], submitted: bool) -> None:
    """Refuse a launcher that cannot work with the place of a run: ``submitted`` means ``cluster=slurm``.

    ``settings`` are the keys of ``hydra.launcher``. Raises `UserError`.
    """
    name = STOCK.get(settings["_target_"])
    if name and submitted:
        raise UserError(
            f"hydra/launcher={name}: cluster=slurm submits by itself; leave the launcher out, or choose cluster=local"
        )


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
