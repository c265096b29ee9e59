"""Expands ``resume=``, ``mode=plan``, ``mode=score`` and ``mode=watch`` into Hydra's overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from launcher.cli.hydra_launchers import SHARED
from launcher.core.errors import ResumeError, UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.settings.overrides import CommandLine

RESUME_KEY = "hydra.launcher.resume"

QUOTED = 120
"""Characters of an error that a line quotes."""

WATCHED_PATH = "${watch.folder}"
"""The model's path of a watch, until a checkpoint replaces it."""


def expand_arguments(line: CommandLine, scratch: Path) -> CommandLine:
    """Add the overrides that ``resume=``, ``mode=plan`` and ``mode=watch`` imply.

    A plan has no run folder; Hydra writes into ``scratch`` instead. Neither has a conversion. Raises `UserError`.
    """
    if line.get("mode") == "plan":
        nowhere = _expand_resume(line).with_("hydra.run.dir", str(scratch)).with_("hydra.sweep.dir", str(scratch))
        return nowhere.with_("hydra.output_subdir", None)
    if line.get("mode") == "convert":  # the folder to write is no run folder
        return line.with_("hydra.run.dir", ".").with_("hydra.output_subdir", None)
    return _expand_resume(line)


def _expand_resume(line: CommandLine) -> CommandLine:
    folder = line.get("resume")
    if folder is None:
        return _expand_score(line) if _is_about_answers(line) else _expand_watch(line)
    if folder == "":
        raise UserError("resume=: a value is required; expected the folder of an interrupted run or sweep")
    if RunFolder(Path(folder)).multirun.is_file():
        return _resume_sweep(line, Path(folder))
    return _expand_watch(resume_run(line, Path(folder)))


def _is_about_answers(line: CommandLine) -> bool:
    """Tell whether a run's answers are scored again, or whether that is planned."""
    return line.get("mode") == "score" or (line.get("mode") == "plan" and line.get("run") is not None)


def _expand_watch(line: CommandLine) -> CommandLine:
    """Make the watched folder the model's path, which each checkpoint replaces."""
    if line.get("mode") != "watch":
        return line
    if (path := line.get("model.path")) not in (None, WATCHED_PATH):
        raise UserError(f"model.path={path}: mode=watch takes the checkpoints from watch.folder")
    others = line.without(lambda key: key == "model.path")
    chosen = others if "model" in line.keys else others.with_("model", "checkpoint")
    return chosen.with_("model.path", WATCHED_PATH)


def _expand_score(line: CommandLine) -> CommandLine:
    """Return the overrides of the run whose answers are scored, replaced by those of ``line``; the folder is a new one.

    A cluster is not taken over: scoring needs no GPU. Neither are settings of tasks that ``tasks=`` leaves out.
    """
    folder = line.get("run")
    if not folder:
        raise UserError("run: a value is required; mode=score needs run=<run folder>")
    stored = RunFolder(Path(folder)).overrides
    if RunFolder(Path(folder)).multirun.is_file() and not stored.is_file():
        raise UserError(f"run={folder}: the folder of a sweep; give the folder of one of its points")
    if not stored.is_file():
        raise UserError(f"run={folder}: not a run folder, {stored} does not exist")
    if (new := line.get("hydra.run.dir")) and Path(str(new)).resolve() == Path(folder).resolve():
        raise UserError(f"hydra.run.dir={new}: it is the folder whose answers are scored; choose another one")
    file = RunFolder(Path(folder)).hydra_config
    before = CommandLine.of(stored_overrides(stored))
    replaced = "judge" in line.keys
    kept = before.without(
        lambda key: (
            key in line.keys
            or _is_of_the_run(key)
            or _is_left_out(key, line.get("tasks"))
            or (replaced and _is_of_the_judge(key))
        )
    )
    absolute = str(Path(folder).absolute())
    whole = kept.added(line.without(lambda key: key == "run").texts).with_("run", absolute).flagged(**line.flags)
    return _with_config_dir(whole, _read_hydra_config(file) if file.is_file() else None, Path(folder))


def _is_of_the_run(key: str) -> bool:
    """Tell whether a stored override says where and how far the run went, which its scoring does not take over."""
    return key in ("mode", "resume", "run", "cluster") or key.startswith(("cluster.", "watch.", "hydra"))


def _is_of_the_judge(key: str) -> bool:
    return key.startswith(("judge.", "judge/")) or "@judge." in key


def _is_left_out(key: str, tasks: Json) -> bool:
    """Tell whether a stored override is of a task that is not among ``tasks``, the options that are chosen now."""
    if not isinstance(tasks, list) or not key.startswith("tasks."):
        return False
    return key.split(".")[1] not in {re.sub(r"\W", "_", str(name)) for name in tasks}


def resume_run(line: CommandLine, folder: Path) -> CommandLine:
    """Return the overrides of the run in ``folder``, replaced by those of ``line``."""
    stored = RunFolder(folder).overrides
    if not stored.is_file():
        raise UserError(f"resume={folder}: not a run folder, {stored} does not exist")
    if (new := line.get("hydra.run.dir")) and Path(str(new)).resolve() != folder.resolve():
        raise UserError(f"hydra.run.dir={new}: resume={folder} goes on in its own folder; leave hydra.run.dir= out")
    file = RunFolder(folder).hydra_config
    stored_config = _read_hydra_config(file) if file.is_file() else None
    queue = [] if "cluster" in line.keys or stored_config is None else _queue_overrides(stored_config)
    before = CommandLine.of([*stored_overrides(stored), *queue])
    kept = before.without(lambda key: key in line.keys)
    whole = kept.added(line.texts).with_("hydra.run.dir", str(folder)).with_("hydra.output_subdir", None)
    return _with_config_dir(whole.flagged(**line.flags), stored_config, folder)


def _with_config_dir(line: CommandLine, stored_config: Any, folder: Path) -> CommandLine:
    """Add the ``--config-dir`` that a run or sweep was made with, unless another one is given."""
    sources = (stored_config.get("runtime") or {}).get("config_sources") or [] if stored_config is not None else []
    before = next((source.path for source in sources if source.provider == "command-line"), None)
    if before is None or "config_dir" in line.flags:
        return line
    if not Path(before).is_dir():
        raise UserError(f"resume={folder}: its --config-dir {before} is gone; give its new place with --config-dir")
    return line.flagged(config_dir=before)


def _queue_overrides(stored_config: Any) -> list[str]:
    """Return the keys of our own ``hydra.launcher`` that a run was submitted with."""
    ours = stored_config.launcher._target_ == SHARED
    given = CommandLine.of(override_texts(stored_config.overrides.hydra) if ours else [])
    return given.without(lambda key: not key.startswith("hydra.launcher.") or key == RESUME_KEY).texts


def _resume_sweep(line: CommandLine, folder: Path) -> CommandLine:
    """Repeat the sweep in ``folder`` with its own overrides: with others, a finished point might be another one."""
    stored = _read_hydra_config(RunFolder(folder).multirun)
    before = CommandLine.of(override_texts(stored.overrides.task))
    free = ("hydra.", "watch.") if before.get("mode") == "watch" else ("hydra.",)
    if given := line.without(lambda key: key == "resume" or key.startswith(free)).texts:
        also = "".join(f" and {prefix}*" for prefix in free)
        raise UserError(f"{given[0]}: a sweep is resumed as it began; expected only resume={folder}{also}")
    if stored.launcher._target_ != SHARED:
        raise UserError(f"resume={folder}: only a sweep of hydra/launcher=shared is resumed; resume its points instead")
    settings = CommandLine.of(override_texts(stored.overrides.hydra))
    kept = settings.without(lambda key: key in ("hydra.sweep.dir", "hydra.mode", RESUME_KEY))
    ours = line.without(lambda key: not key.startswith(free))
    whole = before.without(lambda key: key in ours.keys).added(kept.texts).added(ours.texts)
    sweep = whole.with_("hydra.sweep.dir", str(folder)).with_(RESUME_KEY, True)
    return _with_config_dir(sweep.flagged(**line.flags, multirun=True), stored, folder)


def stored_overrides(file: Path) -> list[str]:
    """Return the overrides that Hydra wrote to a file. Raises `ResumeError` for a damaged one."""
    with _reading_hydra_file(file):
        found = override_texts(OmegaConf.load(file))
        CommandLine.of(found)
        return found


def _read_hydra_config(file: Path) -> Any:
    """Return Hydra's own settings from a file of its own, checked. Raises `ResumeError`."""
    with _reading_hydra_file(file):
        found = OmegaConf.load(file).hydra
        for overrides in (found.overrides.hydra, found.overrides.task):
            override_texts(overrides)
        if not isinstance(found.launcher._target_, str):
            raise TypeError("no launcher in it")
        return found


@contextmanager
def _reading_hydra_file(file: Path) -> Iterator[None]:
    """Raise `ResumeError`, with the remedy, for a file that Hydra did not write."""
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, YAMLError, OmegaConfBaseException, HydraException) as error:
        why = " ".join(str(error).split())[:QUOTED]
        raise ResumeError(
            f"{file}: not what Hydra wrote there ({why}); restore it, or repeat the command that began this run with "
            "hydra.run.dir=<its folder>"
        ) from None


def override_texts(overrides: Any) -> list[str]:
    """Return overrides with their interpolations unresolved: they resolve only within the configuration."""
    found = OmegaConf.to_container(overrides, resolve=False)
    if not isinstance(found, list):
        raise TypeError("no list of overrides")
    return [str(override) for override in found]
