"""Hydra's callback: exit codes and objective values of a sweep's points, and their comparison at the end."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from launcher.cli import hydra_launchers, objective
from launcher.cli.config_secrets import check_secrets
from launcher.cli.hydra_launchers import SHARED, launcher_keys
from launcher.cli.kept_config import KeptConfig
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED
from launcher.pipeline.config import Mode, plain
from launcher.settings.cluster import Slurm

if TYPE_CHECKING:
    from launcher.cli.watch_sweep import Before


class SweepCallback(Callback):
    """Collect the exit code of every point, tell the sweeper its value, and compare the points when a sweep is over."""

    codes: list[int] = []
    values: list[objective.Value] = []
    sweep: Path | None = None
    before: Before | None = None
    """The folder of a watch over several settings, as it was before Hydra wrote into it."""
    kept: KeptConfig | None = None
    """What an earlier session of a single run has left of Hydra's files."""
    shared: bool = True
    begun: Callable[[Path], None] | None = None
    """Gets the folder of a run or a sweep, once it is known."""

    @classmethod
    def reset(cls) -> None:
        """Clear the state of an earlier command in this process."""
        cls.codes.clear()
        cls.values.clear()
        cls.sweep = cls.before = cls.kept = None

    @classmethod
    def undo(cls) -> None:
        """Undo what Hydra wrote for a watch over several settings that did not begin."""
        if cls.before is not None:
            cls.before.restore()
            cls.before = None

    @classmethod
    def restore_run(cls) -> None:
        """Give the folder of a refused run the configuration of its earlier session."""
        if cls.kept is not None:
            cls.kept.restore()
            cls.kept = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the run folder exists, refuse a secret in an option file, and a launcher that would be ignored.

        A plan that an option file asks for leaves no folder. Raises `SystemExit`.
        """
        try:
            check_secrets(config)
            hydra_launchers.check_run(launcher_keys(config.hydra))
        except UserError as error:
            sys.exit(fail(str(error), error.exit_code))
        if config.mode == Mode.plan:
            with read_write(config.hydra):
                config.hydra.run.dir, config.hydra.output_subdir = ".", None
        else:
            type(self).kept = KeptConfig.of(Path(config.hydra.run.dir).absolute())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder of a sweep, which an interrupt reports.

        Raises `SystemExit` for a launcher that cannot do what is asked: Hydra turns other exceptions into warnings.
        """
        from launcher.cli import watch_sweep

        keys = launcher_keys(config.hydra)
        try:
            check_secrets(config)
            hydra_launchers.check(keys, submitted=OmegaConf.get_type(config, "cluster") is Slurm)
            hydra_launchers.check_sweep(keys, config.mode == Mode.plan)
            hydra_launchers.check_sweeper(config.hydra.sweeper, plain(config.cluster, resolve=False))
            if config.mode == Mode.watch:
                watch_sweep.check(keys, config.hydra.sweeper)
            if config.mode == Mode.plan and config.hydra.output_subdir is not None:
                raise UserError("mode=plan: an option file sets it; for a sweep, give it on the command line")
        except UserError as error:
            sys.exit(fail(str(error), error.exit_code))
        type(self).shared = keys["_target_"] == SHARED
        if config.mode == Mode.watch:
            type(self).before = watch_sweep.Before.of(Path(config.hydra.sweep.dir).absolute())
            self._tell(Path(config.hydra.sweep.dir))
        elif config.mode != Mode.plan:
            type(self).sweep = Path(config.hydra.sweep.dir)
            self._tell(Path(config.hydra.sweep.dir))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell the folder of a run."""
        if config.hydra.mode == RunMode.RUN and config.mode != Mode.plan:
            self._tell(Path(config.hydra.runtime.output_dir))

    def _tell(self, folder: Path) -> None:
        if (begun := type(self).begun) is not None:
            begun(folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember the exit code of a point. A crashed point of a sweep prints its traceback, and the others go on.

        Raises `KeyboardInterrupt` for an interrupted point: it ends its sweep with every launcher and sweeper.
        """
        if job_return.status is JobStatus.FAILED and config.hydra.mode == RunMode.MULTIRUN:
            traceback.print_exception(job_return._return_value)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, 1
        value = job_return._return_value
        self.codes.append(value if isinstance(value, int) else 1)
        if value == INTERRUPTED and self.sweep is not None:
            raise KeyboardInterrupt
        if config.hydra.mode == RunMode.MULTIRUN:
            job_return.return_value = self.objective_value(config, Path(config.hydra.runtime.output_dir))

    @classmethod
    def objective_value(cls, config: DictConfig, folder: Path) -> objective.Value:
        """Return the value of a finished point for the sweeper; 0.0 for every point of a plan.

        Raises `SystemExit` if the objective's metric does not exist: no point could have a value.
        """
        if config.mode == Mode.plan:
            return 0.0
        asked = config.objective if isinstance(config.objective, str | None) else list(config.objective)
        try:
            cls.values.append(objective.value(folder, asked))
        except UserError as error:
            if asked is None and not hydra_launchers.needs_results(config.hydra.sweeper):
                return None
            sys.exit(fail_sweep(str(error), error.exit_code))
        return cls.values[-1]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``sweep.json`` and ``sweep.html``, and print the table that compares the points.

        For points that ran in other processes the exit codes come from their reports.
        """
        if config.mode in (Mode.plan, Mode.watch):
            return
        folder = Path(config.hydra.sweep.dir)
        try:
            found = report_with_verdicts(folder)
        except UserError as error:  # no point was begun
            found = [fail(str(error), error.exit_code)]
        if not self.codes:
            self.codes.extend(found)


@contextmanager
def unscored_sweep_explained() -> Iterator[None]:
    """Raise `UserError` for what a sweeper raises when no point has a value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not SweepCallback.values or any(value is not None for value in SweepCallback.values):
            raise
        raise UserError(f"no point of the sweep has a value for its sweeper ({error})") from None


def fail_sweep(line: str, code: int) -> int:
    """Report the points of the current sweep, if there is one, and print why it cannot go on; return the exit code."""
    if SweepCallback.sweep is not None:
        with suppress(UserError):  # there is no point yet
            report(SweepCallback.sweep)
    return fail(line, code)


def report_interrupt() -> int:
    """Report the finished points, and print how to continue; return the exit code."""
    if SweepCallback.sweep is None:
        return fail("interrupted", INTERRUPTED)
    how = (
        f"resume={SweepCallback.sweep}"
        if SweepCallback.shared
        else f"resume={SweepCallback.sweep}/<point> for each point"
    )
    return fail_sweep(f"interrupted; continue with {how}", INTERRUPTED)


def lost_job_errors() -> tuple[type[Exception], ...]:
    """Return what hydra-submitit-launcher raises for a point without a result, or one that was not submitted."""
    if "submitit" not in sys.modules:
        return ()
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    return UncompletedJobError, FailedSubmissionError


def report_lost_points(error: Exception) -> int:
    """Report the points that have a result, and print in one line why the first other one has none."""
    lines = [line for line in str(error).splitlines() if line.strip("- ")]
    reason = " ".join(lines[: 1 if "error" in lines[0] else 2])
    return fail_sweep(f"{reason}; the logs of the points are in {SweepCallback.sweep}", 1)


def report(folder: Path) -> list[int]:
    """Report a sweep; return the exit codes of its points."""
    from launcher.report import results, sweep  # only the end of a sweep needs it

    return [results.CODES.get(point["status"], 1) for point in sweep.report(folder)["points"]]


def report_with_verdicts(folder: Path) -> list[int]:
    """Report a sweep, print what each point is against the first, and return the exit codes of its points."""
    from rich.console import Console

    from launcher.report.compare import reading_once
    from launcher.verdict import sweep

    with reading_once():
        codes = report(folder)
        sweep.show(folder, Console())
    return codes


def fail(line: str, code: int) -> int:
    """Print on standard error why the program ends; return its exit code."""
    to_stderr(f"launcher: {line}")
    return code
