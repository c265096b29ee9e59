"""Composes the two runs of a race, carries it out, and prints the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from launcher.cli.compose import Composition
from launcher.cli.config_errors import describe
from launcher.cli.lm_eval_options import including
from launcher.cli.options import option_packages
from launcher.cli.signals import interrupt_on_sigterm
from launcher.core import files
from launcher.core.console import to_stderr
from launcher.core.errors import CoverageTooLow, UserError
from launcher.core.files import conf_folder, replace_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import INTERRUPTED
from launcher.distributed.allocation import allocate
from launcher.pipeline.config import ComposedRun, Mode
from launcher.settings.cluster import Local
from launcher.settings.overrides import CommandLine, quote_if_needed

LABELS = ("a", "b")


def race(words: Sequence[Sequence[str]], folder: Path, console: Console) -> int:
    """Race two models, each given by its settings; the runs are ``a`` and ``b`` in the folder. Raises `UserError`."""
    from launcher.pipeline import race as pipeline

    interrupt_on_sigterm()
    option_packages()
    runs = [_composed(each, folder / label) for each, label in zip(words, LABELS, strict=True)]
    allocation = allocate()
    pipeline.check(runs, allocation)
    for each in runs:
        _write(each)
    replace_json(RunFolder(folder).race, {"schema_version": 1, "models": [list(each) for each in words]}, indent=2)
    try:
        codes = pipeline.race(runs[0], runs[1], allocation)
    except KeyboardInterrupt:
        codes = INTERRUPTED, INTERRUPTED
    if INTERRUPTED in codes:
        to_stderr(f"launcher: interrupted; continue with {runs[0].continued_by}")
        return INTERRUPTED
    if set(codes) <= {0, CoverageTooLow.exit_code}:
        _show(folder, console)
    return max(codes)


def _composed(words: Sequence[str], folder: Path) -> ComposedRun:
    """Return what the settings ask for, as Hydra composes it for a run in a folder. Raises `UserError`."""
    try:
        line = CommandLine.parse(words)
        with including(line), initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", _with_folder(line), return_hydra_config=True)
            hydra_config = config.hydra
            with open_dict(config):
                del config["hydra"]
            found = replace(Composition(config, hydra_config, folder).composed, race=folder.parent)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(describe(error)) from None
    _check(found)
    return found


def _with_folder(line: CommandLine) -> list[str]:
    """Return the settings, with the folder of ``--config-dir`` before those of ``hydra.searchpath``."""
    if not (extra := line.flags.get("config_dir")):
        return list(line.texts)
    found = [f"file://{extra}", *map(str, line.get("hydra.searchpath") or [])]
    others = line.without(lambda key: key == "hydra.searchpath").texts
    return [f"hydra.searchpath=[{','.join(map(quote_if_needed, found))}]", *others]


def _check(composed: ComposedRun) -> None:
    if composed.run.mode is not Mode.run:
        raise UserError(f"race: mode={composed.run.mode.value}: a race is two runs; leave the mode out")
    if not isinstance(composed.run.cluster, Local):
        raise UserError("race: a race asks both models from this machine; leave cluster= out, and give URLs")


def _write(composed: ComposedRun) -> None:
    """Write the configuration where Hydra would, so that a run's folder says what it was."""
    folder = RunFolder(composed.folder)
    folder.hydra.mkdir(parents=True, exist_ok=True)
    both: dict[Path, Any] = {folder.overrides: composed.overrides, folder.config: dict(composed.config)}
    for path, value in both.items():
        files.replace(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _show(folder: Path, console: Console) -> None:
    """Print the verdict, and write it as a comparison."""
    from launcher.verdict import collect, page, runs, terminal

    found = collect.collect(runs.read_all([folder / label for label in LABELS]), raced=True)
    terminal.show(found, console)
    console.print(f"page    {page.write(found, folder)}", soft_wrap=True, highlight=False, markup=False)
