"""The run that evaluates one checkpoint: the watch's own configuration with another ``model.path``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import yaml

from launcher.checkpoints.states import CheckpointState
from launcher.core import files
from launcher.core.run_folder import RunFolder
from launcher.pipeline.config import ComposedRun, Mode
from launcher.settings.overrides import CommandLine

OWN_KEYS = ("mode", "resume", "model.path", "watch")
"""Keys of the watch itself, which its runs do not inherit."""


def run_of(base: ComposedRun, checkpoint: CheckpointState) -> ComposedRun:
    """Return the run for a checkpoint, in a folder of its own below the watch's."""
    path = str(checkpoint.path)
    config = dict(base.config) | {"mode": Mode.run.value, "resume": None}
    config["model"] = dict(config["model"]) | {"path": path}
    overrides = CommandLine.of(base.overrides).without(_is_own).with_("model.path", path).texts
    run = replace(base.run, mode=Mode.run, resume=None, model=replace(base.run.model, path=path))
    return ComposedRun(run, config, overrides, base.folder / checkpoint.key)


def write_configuration(run: ComposedRun, base: Path) -> None:
    """Write the run's configuration where Hydra would, so that its folder can be resumed as any other.

    Hydra's own settings are copied from ``base``, the folder of the watch.
    """
    folder, hydra_config = RunFolder(run.folder), RunFolder(base).hydra_config
    folder.hydra.mkdir(parents=True, exist_ok=True)
    if hydra_config.is_file():
        shutil.copy(hydra_config, folder.hydra_config)
    for path, value in {folder.overrides: run.overrides, folder.config: dict(run.config)}.items():
        files.replace(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _is_own(key: str) -> bool:
    return key in OWN_KEYS or key.startswith("watch.")
