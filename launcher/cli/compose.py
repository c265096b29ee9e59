"""Turns what Hydra composed into one typed `ComposedRun`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from launcher.cli import hydra_launchers
from launcher.cli.arguments import override_texts
from launcher.cli.config_errors import check_emptied, check_ranges, check_repeated, describe, unknown_keys
from launcher.cli.config_secrets import check_secrets
from launcher.cli.given_types import check_types
from launcher.cli.hydra_launchers import SHARED, launcher_keys
from launcher.cli.lm_eval_options import check_include_path
from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.pipeline.config import ComposedRun, Mode, Run, check, plain
from launcher.settings.cluster import Slurm
from launcher.settings.overrides import CommandLine
from launcher.tasks.locations import search_beside

OF_A_TASK = "tasks: "
"""How an error begins that a task's settings raise."""


class Composition:
    """One configuration of Hydra's, with Hydra's own settings and the run folder; ``composed`` is its typed value.

    Only this class and Hydra's callbacks see a `DictConfig`.
    """

    def __init__(self, config: DictConfig, hydra_config: Any, folder: Path) -> None:
        self._config, self._hydra, self.folder = config, hydra_config, folder

    @classmethod
    def current(cls, config: DictConfig) -> Self:
        """Return the configuration that Hydra hands to a job, with the settings of that job."""
        hydra_config = HydraConfig.get()
        return cls(config, hydra_config, Path(hydra_config.runtime.output_dir))

    @cached_property
    def composed(self) -> ComposedRun:
        """The run that the configuration asks for. Raises `UserError` where it cannot be run."""
        try:
            return self._compose()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(describe(error)) from None

    def _compose(self) -> ComposedRun:
        keys = launcher_keys(self._hydra)
        check_secrets(self._config)
        check_emptied(self._config, self.overrides)
        check_repeated(self.overrides)
        check_types(CommandLine.of(self.overrides))
        check_include_path(self._config, CommandLine.of(self.overrides))
        hydra_launchers.check(keys, submitted=is_submitted(self._config))
        search_beside(_option_folders(self._hydra))
        _check_filled(_option_folders(self._hydra), CommandLine.of(self.overrides))
        config = _with_queue_keys(self._config, keys, self.overrides)
        run = _typed(config)
        check(run)
        return ComposedRun(run, plain(config), self.overrides, self.folder)

    @property
    def overrides(self) -> list[str]:
        return override_texts(self._hydra.overrides.task)

    @property
    def unresolved(self) -> dict[str, Any]:
        """The configuration as plain data, with its interpolations: one of them may be what is wrong."""
        return plain(self._config, resolve=False)

    @property
    def is_swept(self) -> bool:
        return bool(self._hydra.mode == RunMode.MULTIRUN)

    @property
    def is_plan(self) -> bool:
        return bool(self._config.mode == Mode.plan)

    @property
    def outer_folder(self) -> Path:
        """The folder of the sweep that this is a point of, else the run folder."""
        return Path(self._hydra.sweep.dir) if self.is_swept else self.folder

    @property
    def shares_servers(self) -> bool:
        """Whether the points of this sweep run in one process, on the servers that it keeps."""
        return self.is_swept and launcher_keys(self._hydra)["_target_"] == SHARED


def _option_folders(hydra_config: Any) -> list[Path]:
    """Return the folders of option files that the user added to those of the program."""
    sources = hydra_config.runtime.config_sources or []
    own = {"main", "hydra", "schema"}
    return [Path(source.path) for source in sources if source.schema == "file" and source.provider not in own]


def _check_filled(folders: list[Path], given: CommandLine) -> None:
    """Refuse an option file without content, which would choose nothing without a word. Raises `UserError`."""
    for group in ("tasks", "adapters") if folders else ():
        chosen = given.get(group)
        for name in chosen if isinstance(chosen, list) else [chosen]:
            for file in (folder / group / f"{name}.yaml" for folder in folders):
                if file.is_file() and not _has_content(file):
                    raise UserError(
                        f"{group}={name}: {file} is empty; it needs defaults: [/schema/{group}/<kind>@_here_]"
                    )


def _has_content(file: Path) -> bool:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return any(line and not line.startswith(("#", "---")) for line in lines)


def is_submitted(config: DictConfig) -> bool:
    """Tell whether a configuration chooses ``cluster=slurm``."""
    return OmegaConf.get_type(config, "cluster") is Slurm


def _with_queue_keys(config: DictConfig, keys: Mapping[str, Json], overrides: list[str]) -> DictConfig:
    """Return the configuration with the queue's keys of ``hydra.launcher`` as those of ``cluster``."""
    if not hydra_launchers.queue_keys(keys):
        return config
    given = CommandLine.of(overrides).keys
    values = hydra_launchers.as_cluster_keys(keys, plain(config.cluster, resolve=False), given)
    merged = config.copy()
    with open_dict(merged):  # additional_parameters takes any key
        merged.merge_with({"cluster": values})
    return merged


def _typed(config: DictConfig) -> Run:
    if unknown := unknown_keys(config):
        raise UserError(f"{', '.join(unknown)}: no such key; leave out the + to see the keys that exist")
    check_ranges(config)
    try:
        run = OmegaConf.to_object(config)
    except UserError as error:
        raise _with_task(config, error) from None
    assert isinstance(run, Run)
    return run


def _with_task(config: DictConfig, error: UserError) -> UserError:
    """Return the error of a task's settings with the name of the task, which the task itself does not know."""
    for name in config.tasks if str(error).startswith(OF_A_TASK) else ():
        try:
            OmegaConf.to_object(config.tasks[name])
        except UserError as again:
            if str(again) == str(error):
                return UserError(f"tasks.{name}: {str(error).removeprefix(OF_A_TASK)}")
    return error
