"""The run that evaluates one checkpoint: the watch's own configuration with another ``model.path``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import yaml

from launcher.checkpoints.states import CheckpointState
from launcher.core.run_folder import RunFolder
from launcher.pipeline.config import ComposedRun, Mode
from launcher.settings.overrides import CommandLine

OURS = ("mode", "resume", "model.path", "watch")


def point_of(base: ComposedRun, seen: CheckpointState) -> ComposedRun:
    """Return the run for a checkpoint, in a folder of its own below the watch's."""
    model = replace(base.run.model, path=str(seen.path))
    config = dict(base.config) | {"mode": Mode.run.value, "resume": None}
    config["model"] = dict(config["model"]) | {"path": str(seen.path)}
    overrides = CommandLine.of(base.overrides).without(_is_ours).with_("model.path", str(seen.path)).texts
    run = replace(base.run, mode=Mode.run, resume=None, model=model)
    return ComposedRun(run, config, overrides, base.folder / seen.key)


def keep(point: ComposedRun, base: Path) -> None:
    """Write the run's configuration where Hydra would, so that the folder can be continued as any other.

    What Hydra itself was told is in the folder ``base`` of the watch.
    """
    folder, told = RunFolder(point.folder).hydra, RunFolder(base).hydra_config
    folder.mkdir(parents=True, exist_ok=True)
    if told.is_file():
        shutil.copy(told, folder)
    for name, value in {"overrides": point.overrides, "config": dict(point.config)}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _is_ours(key: str) -> bool:
    return key in OURS or key.startswith("watch.")
