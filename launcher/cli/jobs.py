"""What happens with a composed configuration: a plan is shown, a run is carried out, watched or submitted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.compose import Composition
from launcher.cli.live_page import LivePage
from launcher.cli.sweep_callback import SweepCallback, fail, fail_sweep
from launcher.core.credentials import SecretGiven
from launcher.core.errors import ObjectiveError, UserError
from launcher.core.files import refused
from launcher.core.run_folder import RunFolder
from launcher.distributed.allocation import Allocation, allocate
from launcher.pipeline.config import ComposedRun, Mode
from launcher.pipeline.servers import ServerPool, fingerprint
from launcher.settings.cluster import Slurm

if TYPE_CHECKING:
    from launcher.cli.watch_sweep import WatchSweep


@dataclass(frozen=True)
class RunContext:
    """What points run with: this process's allocation, the servers that it keeps, and its page.

    Some of Hydra's launchers run each point in a process of its own; there the value becomes that process's context.
    """

    allocation: Allocation
    deployments: ServerPool | None = None
    page: LivePage | None = None

    def __reduce__(self) -> tuple[Callable[[], RunContext], tuple[()]]:
        return _context_here, ()


def _context_here() -> RunContext:
    return RunContext(allocate())


def job(composition: Composition, context: RunContext) -> int:
    """Carry out, watch or submit one configuration, or show its plan; return the exit code."""

    def work(composed: ComposedRun) -> int:
        submitted = isinstance(composed.run.cluster, Slurm)
        if context.page is not None and (not submitted or composed.run.mode is Mode.watch):
            context.page.open(composed.run, composition.outer_folder)
        if composed.run.mode is Mode.watch:
            if composition.is_swept:
                raise UserError("mode=watch: a sweep over modes cannot watch; give one mode=watch for all its points")
            from launcher.watch import loop
            from launcher.watch.checkpoint_run import Setting

            return loop.watch([Setting.only(composed)], composed.folder, context.allocation)
        if composed.run.mode is Mode.convert:
            from launcher.pipeline.converting import convert

            return convert(composed.run.model, composed.run.convert)
        if submitted:
            from launcher.slurm.sweep_jobs import submit_groups

            return submit_groups([[composed]], under_way=[])[composed.folder]
        from launcher.pipeline import run

        shared = context.deployments if composition.shares_servers else None
        return run.run(composed, context.allocation, shared)

    return perform(composition, work)


def watch_several(sweep: WatchSweep, context: RunContext) -> int:
    """Evaluate every checkpoint with each of several settings; return the exit code."""
    from launcher.watch import loop

    if context.page is not None:
        context.page.open(sweep.settings[0].base.run, sweep.folder)
    try:
        code = loop.watch(sweep.settings, sweep.folder, context.allocation)
    except UserError as error:
        return fail(str(error), error.exit_code)
    SweepCallback.before = None
    return code


def perform(composition: Composition, work: Callable[[ComposedRun], int]) -> int:
    """Do ``work`` with what was composed, or show the plan; return the exit code, also of what is refused."""
    from launcher.cli import plan

    try:
        with _plain_refusals():
            composed = composition.composed
            if composed.run.mode is Mode.plan:
                plan.show(composed)
                return 0
    except UserError as error:
        return _refuse(composition, error)
    try:
        with _plain_refusals():
            code = work(composed)
    except UserError as error:
        code = fail(str(error), error.exit_code)
    if code:
        SweepCallback.restore_run()
    return code


@contextmanager
def _plain_refusals() -> Iterator[None]:
    """Raise `UserError` for a file that is refused, such as a checkpoint of another user: Hydra would print more."""
    try:
        yield
    except OSError as error:
        reason = refused(error)
        if reason is None:
            raise
        raise UserError(reason) from error


def _refuse(composition: Composition, refusal: UserError) -> int:
    """Print why a configuration cannot be run; a point of a sweep also gets a report that says so."""
    from launcher.pipeline.provenance import provenance
    from launcher.pipeline.record import RunRecord
    from launcher.pipeline.reporting import reporting

    if isinstance(refusal, SecretGiven):  # in an option file that only this point has
        shutil.rmtree(RunFolder(composition.folder).hydra, ignore_errors=True)
    if composition.is_plan or not composition.is_swept:
        if not composition.is_plan:
            SweepCallback.restore_run()
            _remove_if_unused(composition.folder)
        return fail(str(refusal), refusal.exit_code)
    if isinstance(refusal, ObjectiveError):
        sys.exit(fail_sweep(str(refusal), refusal.exit_code))
    record = RunRecord(provenance(composition.unresolved, composition.overrides, allocate()))
    with reporting(record, composition.folder) as exit_status:
        raise refusal
    return exit_status.code


def _remove_if_unused(folder: Path) -> None:
    """Remove a run folder that has nothing but what Hydra wrote, and the folder of its day if that is then empty."""
    hydra = RunFolder(folder).hydra
    if hydra.is_dir() and list(folder.iterdir()) == [hydra]:
        shutil.rmtree(hydra, ignore_errors=True)
        with suppress(OSError):  # another run may be in it, or the working directory is the folder
            for each in (folder, folder.parent, folder.parent.parent):
                each.rmdir()


def deployment_key(composition: Composition) -> str:
    """Return a text that two points share if they can share a server; no checkpoint is read.

    Empty for a point that is refused, which its own run reports.
    """
    try:
        composed = composition.composed
    except UserError:
        return ""
    return fingerprint(composed.run, composed.config, None) + str(composed.config["cluster"])
