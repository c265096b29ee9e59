"""What a command line implies: the overrides of the run that it resumes, no folder for a plan, the model of a watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from launcher.errors import UserError
from launcher.launchers import SHARED

SWEEP = "multirun.yaml"
"""Where Hydra keeps what a sweep was begun with."""

RESUMES = "hydra.launcher.resume="

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
"""Hydra's flags; a long one may be shortened."""

WATCHED = "model.path=${watch.folder}"
"""The model of a watch, until a checkpoint takes its place."""


def check_flags(arguments: list[str]) -> None:
    """Raise `UserError` for a flag that Hydra does not know: most likely a setting with dashes before it."""
    for argument in arguments:
        flag = argument.split("=", 1)[0]
        joined = not flag.startswith("--") and flag[:2] in FLAGS
        if flag.startswith("-") and not joined and not any(known.startswith(flag) for known in FLAGS):
            raise UserError(
                f"{flag}: no such flag; accepted are -m, --help, --version, --cfg job, --info, --config-dir; "
                "a setting has no dashes: key=value"
            )


def completed(arguments: list[str], scratch: Path) -> list[str]:
    """Add what ``resume=`` and ``mode=plan`` imply: the folder's own overrides, and no run folder at all.

    A ``-m`` comes first: Hydra does not know settings on both sides of it.
    """
    arguments = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
    if "mode=plan" in arguments:
        arguments = _watching(arguments)
        nowhere = [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]
        return [*arguments, *nowhere]
    folder = next((a.removeprefix("resume=") for a in arguments if a.startswith("resume=")), "null")
    if not folder:
        raise UserError("resume=: accepted is the folder of an interrupted run or sweep")
    if folder == "null":
        return _watching(arguments)
    return (
        _resumed_sweep(arguments, Path(folder))
        if (Path(folder) / SWEEP).is_file()
        else _watching(resumed(arguments, Path(folder)))
    )


def _watching(arguments: list[str]) -> list[str]:
    """Let a watch's model be the training run's; each checkpoint in it takes its place."""
    if "mode=watch" not in arguments:
        return arguments
    if path := next((a for a in arguments if a.startswith("model.path=") and a != WATCHED), None):
        raise UserError(f"{path}: mode=watch takes the checkpoints from watch.folder")
    chosen = any(a.startswith("model=") for a in arguments)
    return [*(a for a in arguments if a != WATCHED), *([] if chosen else ["model=checkpoint"]), WATCHED]


def resumed(arguments: list[str], folder: Path) -> list[str]:
    """Start from the overrides that the run in ``folder`` was made with; what is given now wins."""
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise UserError(f"resume={folder}: not a run folder, {stored} does not exist")
    given = {a.split("=", 1)[0].lstrip("+~") for a in arguments}
    queue = [] if "cluster" in given else _queue_overrides(folder)
    before = [*_as_written(OmegaConf.load(stored)), *queue]
    kept = [o for o in before if o.split("=", 1)[0].lstrip("+~") not in given]
    return [*kept, *arguments, f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


def _queue_overrides(folder: Path) -> list[str]:
    """Return the keys of our own ``hydra.launcher`` that a run was submitted with."""
    file = folder / ".hydra" / "hydra.yaml"
    if not file.is_file():
        return []
    hydra_config = OmegaConf.load(file).hydra
    ours = hydra_config.launcher._target_ == SHARED
    given = _as_written(hydra_config.overrides.hydra) if ours else []
    return [o for o in given if o.lstrip("+").startswith("hydra.launcher.") and not o.startswith(RESUMES)]


def _resumed_sweep(arguments: list[str], folder: Path) -> list[str]:
    """Repeat the sweep in ``folder`` with its own overrides: only there is a finished point known to be the same."""
    given = [a for a in arguments if not a.startswith(("resume=", "hydra.")) and a not in ("-m", "--multirun")]
    if given:
        raise UserError(f"{given[0]}: a sweep is continued as it was begun; accepted are resume={folder} and hydra.*")
    stored = OmegaConf.load(folder / SWEEP).hydra
    if stored.launcher._target_ != SHARED:
        raise UserError(f"resume={folder}: only a sweep of hydra/launcher=shared is continued; its points can be")
    ours = [a for a in arguments if a.startswith("hydra.")]
    settings = _as_written(stored.overrides.hydra)
    kept = [o for o in settings if not o.startswith(("hydra.sweep.dir=", "hydra.mode=", RESUMES))]
    return ["-m", *_as_written(stored.overrides.task), *kept, *ours, f"hydra.sweep.dir={folder}", f"{RESUMES}true"]


def _as_written(overrides: Any) -> list[str]:
    """Return overrides with their interpolations, which only make sense in the configuration."""
    found = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(found, list)
    return [str(override) for override in found]
