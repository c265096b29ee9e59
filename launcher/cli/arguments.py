"""What a command line implies: the overrides of the run that it resumes, no folder for a plan, the model of a watch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from launcher.cli.hydra_launchers import SHARED
from launcher.core.errors import ResumeError, UserError
from launcher.core.run_folder import RunFolder
from launcher.settings.overrides import CommandLine

RESUMES = "hydra.launcher.resume"

QUOTED = 120
"""Characters of an error that a line quotes."""

WATCHED = "${watch.folder}"
"""The model of a watch, until a checkpoint takes its place."""


def expand_arguments(line: CommandLine, scratch: Path) -> CommandLine:
    """Add what ``resume=``, ``mode=plan`` and ``mode=watch`` imply.

    A plan has no run folder: what Hydra needs one for goes to ``scratch``. Raises `UserError`.
    """
    if line.get("mode") == "plan":
        nowhere = _watching(line).with_("hydra.run.dir", str(scratch)).with_("hydra.sweep.dir", str(scratch))
        return nowhere.with_("hydra.output_subdir", None)
    folder = line.get("resume")
    if folder is None:
        return _watching(line)
    if folder == "":
        raise UserError("resume=: accepted is the folder of an interrupted run or sweep")
    if RunFolder(Path(folder)).multirun.is_file():
        return _resumed_sweep(line, Path(folder))
    return _watching(resumed(line, Path(folder)))


def _watching(line: CommandLine) -> CommandLine:
    """Let a watch's model be the training run's; each checkpoint in it takes its place."""
    if line.get("mode") != "watch":
        return line
    if (path := line.get("model.path")) not in (None, WATCHED):
        raise UserError(f"model.path={path}: mode=watch takes the checkpoints from watch.folder")
    others = line.without(lambda key: key == "model.path")
    chosen = others if "model" in line.keys else others.with_("model", "checkpoint")
    return chosen.with_("model.path", WATCHED)


def resumed(line: CommandLine, folder: Path) -> CommandLine:
    """Start from the overrides that the run in ``folder`` was made with; what is given now wins."""
    stored = RunFolder(folder).overrides
    if not stored.is_file():
        raise UserError(f"resume={folder}: not a run folder, {stored} does not exist")
    file = RunFolder(folder).hydra_config
    told = _hydra(file) if file.is_file() else None
    queue = [] if "cluster" in line.keys or told is None else _queue_overrides(told)
    before = CommandLine.of([*stored_overrides(stored), *queue])
    kept = before.without(lambda key: key in line.keys)
    whole = kept.added(line.texts).with_("hydra.run.dir", str(folder)).with_("hydra.output_subdir", None)
    return _with_options(whole.flagged(**line.flags), told, folder)


def _with_options(line: CommandLine, told: Any, folder: Path) -> CommandLine:
    """Add the ``--config-dir`` that a run or sweep was made with, unless another one is given."""
    sources = (told.get("runtime") or {}).get("config_sources") or [] if told is not None else []
    before = next((source.path for source in sources if source.provider == "command-line"), None)
    if before is None or "config_dir" in line.flags:
        return line
    if not Path(before).is_dir():
        raise UserError(f"resume={folder}: its --config-dir {before} is gone; give its new place with --config-dir")
    return line.flagged(config_dir=before)


def _queue_overrides(told: Any) -> list[str]:
    """Return the keys of our own ``hydra.launcher`` that a run was submitted with."""
    ours = told.launcher._target_ == SHARED
    given = CommandLine.of(as_written(told.overrides.hydra) if ours else [])
    return given.without(lambda key: not key.startswith("hydra.launcher.") or key == RESUMES).texts


def _resumed_sweep(line: CommandLine, folder: Path) -> CommandLine:
    """Repeat the sweep in ``folder`` with its own overrides: only there is a finished point known to be the same."""
    if given := line.without(lambda key: key == "resume" or key.startswith("hydra.")).texts:
        raise UserError(f"{given[0]}: a sweep is continued as it was begun; accepted are resume={folder} and hydra.*")
    stored = _hydra(RunFolder(folder).multirun)
    if stored.launcher._target_ != SHARED:
        raise UserError(f"resume={folder}: only a sweep of hydra/launcher=shared is continued; its points can be")
    settings = CommandLine.of(as_written(stored.overrides.hydra))
    kept = settings.without(lambda key: key in ("hydra.sweep.dir", "hydra.mode", RESUMES))
    ours = line.without(lambda key: not key.startswith("hydra."))
    whole = CommandLine.of(as_written(stored.overrides.task)).added(kept.texts).added(ours.texts)
    sweep = whole.with_("hydra.sweep.dir", str(folder)).with_(RESUMES, True)
    return _with_options(sweep.flagged(**line.flags, multirun=True), stored, folder)


def stored_overrides(file: Path) -> list[str]:
    """Return the overrides that Hydra kept in a file. Raises `ResumeError` for a damaged one."""
    with _reading(file):
        return as_written(OmegaConf.load(file))


def _hydra(file: Path) -> Any:
    """Return Hydra's own settings as it kept them, with all that is read of them. Raises `ResumeError`."""
    with _reading(file):
        found = OmegaConf.load(file).hydra
        for overrides in (found.overrides.hydra, found.overrides.task):
            as_written(overrides)
        if not isinstance(found.launcher._target_, str):
            raise TypeError("no launcher in it")
        return found


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise `ResumeError` with what to do for a file that is not what Hydra wrote."""
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        why = " ".join(str(error).split())[:QUOTED]
        raise ResumeError(
            f"{file}: not what Hydra wrote there ({why}); restore it, or repeat the command that began this run with "
            "hydra.run.dir=<its folder>"
        ) from None


def as_written(overrides: Any) -> list[str]:
    """Return overrides with their interpolations, which only make sense in the configuration."""
    found = OmegaConf.to_container(overrides, resolve=False)
    if not isinstance(found, list):
        raise TypeError("no list of overrides")
    return [str(override) for override in found]
