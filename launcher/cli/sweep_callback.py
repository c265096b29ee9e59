"""What became of a sweep's points: exit codes, what the sweeper is told, and the comparison at the end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from launcher.cli import hydra_launchers, objective
from launcher.cli.hydra_launchers import SHARED
from launcher.core import credentials
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED, Json
from launcher.pipeline.config import Mode, plain
from launcher.settings.cluster import Slurm


class SweepCallback(Callback):
    """Collect the exit code of every point, tell the sweeper its value, and compare the points when a sweep is over."""

    codes: list[int] = []
    values: list[objective.Value] = []
    sweep: Path | None = None
    shared: bool = True

    @classmethod
    def forget(cls) -> None:
        """Begin anew, for another command in this process."""
        cls.codes.clear()
        cls.values.clear()
        cls.sweep = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a secret in an option file, and let a plan that one asks for leave no folder, before there is one.

        Raises `SystemExit`.
        """
        try:
            check_secrets(config)
        except UserError as error:
            sys.exit(say(str(error), error.exit_code))
        if config.mode == Mode.plan:
            with read_write(config.hydra):
                config.hydra.run.dir, config.hydra.output_subdir = ".", None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder of a sweep, for a report of what there is when it is interrupted.

        Raises `SystemExit` for a launcher that would not do what is asked: Hydra makes a warning of anything else.
        """
        keys = settings(config.hydra)
        try:
            check_secrets(config)
            hydra_launchers.check(keys, OmegaConf.get_type(config, "cluster") is Slurm)
            hydra_launchers.check_sweep(keys, config.mode == Mode.plan)
            hydra_launchers.check_sweeper(config.hydra.sweeper, plain(config.cluster, resolve=False))
            if config.mode == Mode.plan and config.hydra.output_subdir is not None:
                raise UserError("mode=plan: an option file sets it; for a sweep, give it on the command line")
        except UserError as error:
            sys.exit(say(str(error), error.exit_code))
        type(self).shared = keys["_target_"] == SHARED
        if config.mode != Mode.plan:
            type(self).sweep = Path(config.hydra.sweep.dir)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the exit code of a point. One of a sweep that crashed shows why, and does not end the others.

        An interrupted point ends its sweep, whatever launcher and sweeper: raises `KeyboardInterrupt`.
        """
        if job_return.status is JobStatus.FAILED and config.hydra.mode == RunMode.MULTIRUN:
            traceback.print_exception(job_return._return_value)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, 1
        value = job_return._return_value
        self.codes.append(value if isinstance(value, int) else 1)
        if value == INTERRUPTED and self.sweep is not None:
            raise KeyboardInterrupt
        if config.hydra.mode == RunMode.MULTIRUN:
            job_return.return_value = self.told(config, Path(config.hydra.runtime.output_dir))

    @classmethod
    def told(cls, config: DictConfig, folder: Path) -> objective.Value:
        """Return what the sweeper is told of a point that is over; of a plan, that all points are alike.

        Raises `SystemExit` if the metric that was asked for does not exist: every other point would be in vain.
        """
        if config.mode == Mode.plan:
            return 0.0
        asked = config.objective if isinstance(config.objective, str | None) else list(config.objective)
        try:
            cls.values.append(objective.value(folder, asked))
        except UserError as error:
            if asked is None and not hydra_launchers.chooses(config.hydra.sweeper):
                return None
            sys.exit(ended(str(error), error.exit_code))
        return cls.values[-1]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``sweep.json`` and ``sweep.html``, and print the table that compares the points.

        Their reports tell the exit codes of points that ran in other processes.
        """
        if config.mode == Mode.plan:
            return
        try:
            found = report(Path(config.hydra.sweep.dir))
        except UserError as error:  # no point was begun
            found = [say(str(error), error.exit_code)]
        if not self.codes:
            self.codes.extend(found)


@contextmanager
def told_values() -> Iterator[None]:
    """Say in one line what a sweeper raises that was told no value of any point."""
    try:
        yield
    except ValueError as error:
        if not SweepCallback.values or any(value is not None for value in SweepCallback.values):
            raise
        raise UserError(f"no point of the sweep has a value for its sweeper ({error})") from None


def ended(line: str, code: int) -> int:
    """Report the points of a sweep that cannot go on, if there is one, and say why."""
    if SweepCallback.sweep is not None:
        with suppress(UserError):  # there is no point yet
            report(SweepCallback.sweep)
    return say(line, code)


def interrupted() -> int:
    """Report the points that were run so far, and say how to go on with the others."""
    if SweepCallback.sweep is None:
        return say("interrupted", INTERRUPTED)
    how = (
        f"resume={SweepCallback.sweep}"
        if SweepCallback.shared
        else f"resume={SweepCallback.sweep}/<point> for each point"
    )
    return ended(f"interrupted; continue with {how}", INTERRUPTED)


def lost() -> tuple[type[Exception], ...]:
    """Return what hydra-submitit-launcher raises for a point that left no result, or that could not be submitted."""
    if "submitit" not in sys.modules:
        return ()
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    return UncompletedJobError, FailedSubmissionError


def lost_points(error: Exception) -> int:
    """Report the points that there are, and say in one line what became of the first one that left no result."""
    lines = [line for line in str(error).splitlines() if line.strip("- ")]
    said = " ".join(lines[: 1 if "error" in lines[0] else 2])
    return ended(f"{said}; what the points wrote is in {SweepCallback.sweep}", 1)


def report(folder: Path) -> list[int]:
    """Report a sweep; return the exit codes of its points."""
    from launcher.report import results, sweep  # here, because only the end of a sweep needs it

    return [results.CODES.get(point["status"], 1) for point in sweep.report(folder)["points"]]


def check_secrets(config: DictConfig) -> None:
    """Refuse secrets that a composed configuration holds as values. Raises `SecretGiven`."""
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
    credentials.check("", plain(config, resolve=False) | {"hydra": {}})
    for key in config:
        if key != "hydra":
            _check_resolved(config, str(key))
    if "hydra" in config:
        for key in ("run", "sweep", "job"):
            _check_resolved(config, f"hydra.{key}")
        credentials.check("hydra.job.env_set", plain(config.hydra.job.env_set, resolve=False))
        credentials.check("hydra.launcher", settings(config.hydra))


def _check_resolved(config: DictConfig, key: str) -> None:
    """Refuse secrets in what the interpolations of a key yield. Raises `SecretGiven`."""
    with credentials.interpolated(key), suppress(OmegaConfBaseException):  # what is wrong is said when it is used
        value = _resolved(OmegaConf.select(config, key))
        if not key.startswith("hydra."):
            credentials.check(key, value)


def _environment(variable: str, *default: Json) -> str | None:
    """Do what OmegaConf's ``oc.env`` does; an interpolation may compute the name, so that only this sees it."""
    value = env(variable, *default)
    if variable in os.environ:
        credentials.note(variable, os.environ[variable])
    return value


def _resolved(value: Any) -> Json:
    return plain(value) if isinstance(value, DictConfig) else value


def settings(hydra_config: HydraConf) -> dict[str, Json]:
    """Return the keys of ``hydra.launcher``."""
    return plain(hydra_config.launcher, resolve=False)


def say(line: str, code: int) -> int:
    """Say on standard error why the program ends; return its exit code."""
    to_stderr(f"launcher: {line}")
    return code
