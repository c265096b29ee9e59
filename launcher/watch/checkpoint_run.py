"""The runs that evaluate one checkpoint: each setting of the watch with another ``model.path``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import yaml

from launcher.checkpoints.states import CheckpointState
from launcher.core import files
from launcher.core.run_folder import RunFolder
from launcher.pipeline.config import ComposedRun, Mode
from launcher.settings.overrides import CommandLine

OWN_KEYS = ("mode", "resume", "model.path", "watch")
"""Keys of the watch itself, which its runs do not inherit."""


@dataclass(frozen=True)
class Setting:
    """What every checkpoint is evaluated with: ``base`` is the configuration of the watch.

    A watch over several settings has one for each. ``name`` is then its folder below that of a checkpoint, and
    ``overrides`` are those that the others do not have. ``hydra_config`` is the text of Hydra's own settings.
    """

    base: ComposedRun
    hydra_config: str = ""
    name: str = ""
    overrides: tuple[str, ...] = ()

    @classmethod
    def only(cls, base: ComposedRun) -> Self:
        """Return that of a watch which is not swept."""
        file = RunFolder(base.folder).hydra_config
        return cls(base, file.read_text(encoding="utf-8") if file.is_file() else "")

    def folder_of(self, checkpoint: CheckpointState) -> str:
        """Return the folder of a checkpoint's run, relative to that of the watch."""
        return f"{checkpoint.key}/{self.name}" if self.name else checkpoint.key


def run_of(setting: Setting, checkpoint: CheckpointState, folder: Path) -> ComposedRun:
    """Return the run for a checkpoint, in a folder of its own below ``folder``, the watch's."""
    path, base = str(checkpoint.path), setting.base
    config = dict(base.config) | {"mode": Mode.run.value, "resume": None}
    config["model"] = dict(config["model"]) | {"path": path}
    overrides = CommandLine.of(base.overrides).without(_is_own).with_("model.path", path).texts
    run = replace(base.run, mode=Mode.run, resume=None, model=replace(base.run.model, path=path))
    return ComposedRun(run, config, overrides, folder / setting.folder_of(checkpoint))


def write_configuration(run: ComposedRun, hydra_config: str) -> None:
    """Write the run's configuration where Hydra would, so that its folder can be resumed as any other."""
    folder = RunFolder(run.folder)
    folder.hydra.mkdir(parents=True, exist_ok=True)
    if hydra_config:
        files.replace(folder.hydra_config, hydra_config)
    for path, value in {folder.overrides: run.overrides, folder.config: dict(run.config)}.items():
        files.replace(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _is_own(key: str) -> bool:
    return key in OWN_KEYS or key.startswith("watch.")
