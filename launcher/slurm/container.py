"""How a job's processes start inside a container: by srun's plugin pyxis, or with apptainer before the command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.types import resolve
from launcher.settings.cluster import Runtime, Slurm


@dataclass(frozen=True)
class ContainerCommand:
    """The shell command that starts Python, its options of srun, and the lines of the batch script after it."""

    python: str
    srun_args: list[str]
    teardown: list[str]


def container_command(
    slurm: Slurm, code: Path, folders: Sequence[Path], model: str, gpus: bool, mark: Path
) -> ContainerCommand:
    """Return how to start a job in ``slurm.container_image``.

    ``code`` is the folder that the package ``launcher`` lies in, ``folders`` are those of the runs, ``model`` is the
    checkpoint's path as configured. There may be no SLURM in the image: the batch script queues a job
    again that leaves the file ``mark``. Raises `UserError` for a path that cannot be mounted.
    """
    assert slurm.container_image is not None
    mounts = _mounts(slurm, code, folders, model)
    workdir = slurm.container_workdir or str(Path.cwd())
    if slurm.container_runtime is Runtime.pyxis:
        return ContainerCommand(_python(slurm, code), _pyxis(slurm, mounts, workdir), _requeue_lines(mark))
    command = [slurm.container_runtime.value, "exec", *(["--nv"] if gpus else []), "--bind", ",".join(mounts)]
    prefix = shlex.join([*command, "--pwd", workdir, slurm.container_image])
    return ContainerCommand(f"{prefix} {_python(slurm, code)}", [], _requeue_lines(mark))


def _pyxis(slurm: Slurm, mounts: Sequence[str], workdir: str) -> list[str]:
    names = [f"--container-env={','.join(slurm.environment)}"] if slurm.environment else []
    image = f"--container-image={slurm.container_image}"
    return [image, f"--container-mounts={','.join(mounts)}", f"--container-workdir={workdir}", *names]


def _python(slurm: Slurm, code: Path) -> str:
    """Return the image's Python, with the launcher's code before the image's own PYTHONPATH."""
    home = shlex.quote(str(code))
    script = (
        f'export PYTHONPATH={home}${{PYTHONPATH:+:$PYTHONPATH}}; exec {shlex.quote(slurm.container_python)} "$0" "$@"'
    )
    return shlex.join(["sh", "-c", script])


def _mounts(slurm: Slurm, code: Path, folders: Sequence[Path], model: str) -> list[str]:
    """Return ``from:to`` for the runs, the code, the checkpoint and the folder that it is submitted from.

    Of an installed package only itself is mounted, not its neighbours: the image has its own.
    """
    source = code if (code / ".git").exists() else code / "launcher"
    runs = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    needed = [Path.cwd(), runs, source, *([resolve(model).resolve()] if model else [])]
    own = [path for path in dict.fromkeys(needed) if not any(other in path.parents for other in needed)]
    given = [mount if ":" in mount else f"{mount}:{mount}" for mount in slurm.container_mounts]
    for path in own:
        if {",", ":"} & set(str(path)):
            raise UserError(f"cluster.container_image: {path} cannot be mounted: it has a comma or a colon in it")
    return [*(f"{path}:{path}" for path in own), *given]


def _requeue_lines(mark: Path) -> list[str]:
    file = shlex.quote(str(mark))
    return [
        "code=$?",
        f'if [ -e {file} ]; then rm {file}; scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $code",
    ]
