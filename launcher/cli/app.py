"""The only module that calls Hydra's entry point: from arguments to the exit code."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from launcher import __version__
from launcher.cli import commands, help_page, hints
from launcher.cli.arguments import expand_arguments
from launcher.cli.compose import Composition
from launcher.cli.composed_once import composed_once
from launcher.cli.composition_crashes import describe_crash, refused_folder
from launcher.cli.config_errors import describe
from launcher.cli.jobs import RunContext, job, watch_several
from launcher.cli.live_page import LivePage
from launcher.cli.lm_eval_options import including
from launcher.cli.options import option_packages
from launcher.cli.signals import interrupt_on_sigterm
from launcher.cli.sweep_callback import (
    SweepCallback,
    fail,
    fail_sweep,
    lost_job_errors,
    report_interrupt,
    report_lost_points,
    unscored_sweep_explained,
)
from launcher.core import redaction
from launcher.core.errors import UserError
from launcher.core.files import conf_folder, is_there, refused
from launcher.distributed.allocation import Allocation, allocate
from launcher.distributed.group.agent import run_agent
from launcher.distributed.group.leader import leading
from launcher.pipeline.servers import ServerPool
from launcher.settings.overrides import CommandLine, NoSetting

if TYPE_CHECKING:
    from launcher.cli.watch_sweep import WatchSweep


def launch(arguments: list[str]) -> int:
    """Compose and run what ``arguments`` ask for; return the exit code, the worst one of a sweep."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors of composition instead of printing them
    interrupt_on_sigterm()
    logging.raiseExceptions = False  # a log that cannot be written costs nothing else
    SweepCallback.reset()
    redaction.forget()
    if "--version" in arguments:  # Hydra would print its own
        print(f"launcher {__version__}")
        return 0
    try:
        return _caught(arguments)
    finally:
        SweepCallback.undo()


def _caught(arguments: list[str]) -> int:
    """Compose and run; return the exit code, also that of an error, which is printed."""
    try:
        line = CommandLine.parse(arguments)
        allocation = allocate()
        if not allocation.leads:
            return run_agent(allocation)
        with leading(allocation) as leader:
            return _launched(line, leader)
    except (HydraException, OmegaConfBaseException) as error:
        return fail(describe(error), UserError.exit_code)
    except NoSetting as error:
        hint = hints.for_word(error.word)
        return fail(f"{error}; {hint}" if hint else str(error), error.exit_code)
    except UserError as error:
        return fail_sweep(str(error), error.exit_code)
    except KeyboardInterrupt:
        return report_interrupt()
    except OSError as error:
        reason = refused_folder(error, swept="multirun" in line.flags) or refused(error)
        if reason is None:
            raise
        return fail_sweep(reason, UserError.exit_code)
    except SystemExit as end:  # Hydra has shown what was asked for, or a callback has printed what is wrong
        return 1 if end.code else 0
    except lost_job_errors() as error:
        return report_lost_points(error)
    except Exception as error:
        reason = describe_crash(error)
        if reason is None:
            raise
        return fail(reason, UserError.exit_code)


def _launched(line: CommandLine, allocation: Allocation) -> int:
    if line.get("mode") in ("status", "cancel"):
        return _job_command(line)
    _check_folders(line)
    option_packages()  # refuses names that are taken, before Hydra meets them
    if "help" in line.flags:
        print(help_page.page())
        return 0
    with _scratch(line) as scratch, LivePage() as page, ServerPool() as deployments:
        context = RunContext(allocation, deployments, page)

        def task(config: DictConfig | Composition | WatchSweep) -> int:
            """Hydra's launchers hand over a `DictConfig`; our own has composed each point before the first one runs."""
            if not isinstance(config, DictConfig | Composition):
                return watch_several(config, context)
            return job(config if isinstance(config, Composition) else Composition.current(config), context)

        expanded = expand_arguments(line, Path(scratch))
        once = composed_once(swept="multirun" in expanded.flags)
        with unscored_sweep_explained(), _argv(expanded.arguments), including(expanded), once:
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(task)()
    return max(SweepCallback.codes, default=0)


def _check_folders(line: CommandLine) -> None:
    """Refuse a file in place of the folder to write, also in a plan, which writes none. Raises `UserError`."""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        folder = line.get(key)
        if folder and is_there(folder) and Path(folder).is_file():
            raise UserError(f"{key}: {folder}: File exists; expected a folder that can be made and written to")


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    """Let Hydra, which reads ``sys.argv``, read these arguments."""
    before = sys.argv
    sys.argv = [*before[:1], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _scratch(line: CommandLine) -> AbstractContextManager[str]:
    """Return a plan's folder, which is removed. Other runs get none: a killed process would leave it behind."""
    return tempfile.TemporaryDirectory() if line.get("mode") == "plan" else nullcontext("")


def _job_command(line: CommandLine) -> int:
    """Do ``mode=status`` or ``mode=cancel`` for the folder that ``run=`` names; nothing is composed."""
    mode, folder = line.get("mode"), line.get("run")
    if other := line.without(lambda key: key in ("run", "mode")).texts:
        raise UserError(f"{other[0]}: mode={mode} takes no setting but run=<run folder>")
    if not folder:
        raise UserError(f"run: a value is required; mode={mode} needs run=<run folder>")
    done = commands.run(mode, ["--", folder])
    assert isinstance(done, int), "these commands are no settings"
    return done
