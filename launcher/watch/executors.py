"""Where checkpoints are evaluated: in this process, or in jobs of SLURM."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED
from launcher.distributed.allocation import Allocation
from launcher.pipeline import run as pipeline
from launcher.pipeline.config import ComposedRun
from launcher.pipeline.servers import ServerPool
from launcher.settings.cluster import Slurm
from launcher.slurm import job_files, monitor, queue, submit
from launcher.slurm.cancel import cancel_job
from launcher.slurm.job_files import Job
from launcher.slurm.monitor import MonitoredJob

T = TypeVar("T")


class Executor(Protocol):
    """Starts runs, and tells which have ended."""

    @property
    def poll_s(self) -> float:
        """How often to ask for what has ended, in seconds."""

    @property
    def waits(self) -> bool:
        """Whether the watch goes on until the runs have ended."""

    def has_capacity(self) -> bool:
        """Tell whether one more run may start."""

    def adopt(self, folder: Path) -> bool:
        """Take over a run that an earlier session has started; return False if it is over."""

    def sharing(self, runs: int) -> AbstractContextManager[None]:
        """Return the context in which so many runs of one checkpoint are started."""

    def together(self, runs: Sequence[T]) -> list[Sequence[T]]:
        """Divide the runs of one checkpoint into those that start at the same time."""

    def start(self, runs: Sequence[ComposedRun]) -> None:
        """Start runs of one checkpoint, or complete them. Raises `UserError` for runs that cannot start."""

    def ended(self) -> Iterator[Path]:
        """Yield the folders of the runs that have ended since the last call."""

    def stop(self) -> None:
        """End the runs, when the watch is interrupted."""


@dataclass
class LocalExecutor:
    """One run after the other, in this process."""

    allocation: Allocation
    poll_s: float = math.inf
    waits: bool = True
    _ended: list[Path] = field(default_factory=list)
    _pool: ServerPool | None = None

    @contextmanager
    def sharing(self, runs: int) -> Iterator[None]:
        """Several runs of one checkpoint share its server, which is taken down after the last one."""
        if runs < 2:
            yield
            return
        with ServerPool() as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def has_capacity(self) -> bool:
        return True

    def adopt(self, folder: Path) -> bool:
        return False

    def together(self, runs: Sequence[T]) -> list[Sequence[T]]:
        return [[run] for run in runs]

    def start(self, runs: Sequence[ComposedRun]) -> None:
        """Complete one run after the other. Raises `KeyboardInterrupt`."""
        for run in runs:
            self._complete(run)

    def _complete(self, run: ComposedRun) -> None:
        """Complete a run; a crash prints its traceback, and the others go on. Raises `KeyboardInterrupt`."""
        self._ended.append(run.folder)
        try:
            code = pipeline.run(run, self.allocation, self._pool)
        except UserError:
            raise
        except Exception:
            traceback.print_exc()
            return
        if code == INTERRUPTED:
            raise KeyboardInterrupt

    def ended(self) -> Iterator[Path]:
        while self._ended:
            yield self._ended.pop(0)

    def stop(self) -> None:
        """No run is left: a run in this process ends before the watch does."""


@dataclass
class SlurmExecutor:
    """A job of SLURM for the runs of a checkpoint; at most ``max_jobs`` are followed at the same time."""

    slurm: Slurm
    max_jobs: int
    _monitored: dict[str, MonitoredJob] = field(default_factory=dict)

    @property
    def poll_s(self) -> float:
        return self.slurm.poll_s

    @property
    def waits(self) -> bool:
        return self.slurm.wait

    def has_capacity(self) -> bool:
        return len(self._monitored) < self.max_jobs

    def sharing(self, runs: int) -> AbstractContextManager[None]:
        return nullcontext()

    def together(self, runs: Sequence[T]) -> list[Sequence[T]]:
        return [runs]

    def start(self, runs: Sequence[ComposedRun]) -> None:
        """Submit one job, in which the runs share a server."""
        self._follow(submit.submit(list(runs), self.slurm))

    def adopt(self, folder: Path) -> bool:
        """Follow the job that an earlier session submitted, if it is in the queue. Raises `UserError`."""
        submission = job_files.submitted(folder)
        if submission is None:
            return False
        job = submission["job_id"]
        if (known := self._monitored.get(job)) is not None:
            self._follow(Job(job, [*known.job.folders, folder]))
            return True
        try:
            state = queue.state(job)
        except OSError as error:
            raise UserError(f"cluster=slurm: {error}") from None
        if state.is_over:
            return False
        self._follow(Job(job, [folder]))
        return True

    def _follow(self, job: Job) -> None:
        self._monitored[job.id] = MonitoredJob(job, shows_log=False)

    def ended(self) -> Iterator[Path]:
        for id, monitored in list(self._monitored.items()):
            if monitored.poll():
                del self._monitored[id]
                for folder in monitored.job.folders:
                    monitored.exit_code(folder)  # prints why a job left none
                    yield folder

    def stop(self) -> None:
        """Cancel the jobs and wait for their end; with ``cluster.wait=false`` they go on."""
        if not self.slurm.wait:
            return
        jobs = [monitored.job for monitored in self._monitored.values()]
        for job in jobs:
            with suppress(UserError):  # it is over already
                cancel_job(job)
        if jobs:
            monitor.follow(jobs, self.slurm.poll_s)
