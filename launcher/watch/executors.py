"""Where checkpoints are evaluated: in this process, or in jobs of SLURM."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED
from launcher.distributed.allocation import Allocation
from launcher.pipeline.config import ComposedRun
from launcher.pipeline.run import run
from launcher.settings.cluster import Slurm
from launcher.slurm import job_files, monitor, queue, submit
from launcher.slurm.cancel import cancel
from launcher.slurm.job_files import Job
from launcher.slurm.monitor import MonitoredJob


class Executor(Protocol):
    """Takes runs, and tells which have ended."""

    @property
    def poll_s(self) -> float:
        """How often to ask for what has ended, in seconds."""

    @property
    def waits(self) -> bool:
        """Whether the watch goes on until the runs have ended."""

    def free(self) -> bool:
        """Tell whether one more run may begin."""

    def adopt(self, folder: Path) -> bool:
        """Go on with a run that an earlier session has begun; False if it does not run any more."""

    def begin(self, point: ComposedRun) -> None:
        """Begin a run, or do all of it. Raises `UserError` for one that cannot be begun."""

    def ended(self) -> Iterator[Path]:
        """Yield the folders of the runs that have ended since the last call."""

    def stop(self) -> None:
        """End what runs, when the watch is interrupted."""


@dataclass
class LocalExecutor:
    """One run after the other, in this process."""

    allocation: Allocation
    poll_s: float = math.inf
    waits: bool = True
    _ended: list[Path] = field(default_factory=list)

    def free(self) -> bool:
        return True

    def adopt(self, folder: Path) -> bool:
        return False

    def begin(self, point: ComposedRun) -> None:
        """Do a run; one that crashes shows its traceback, so that the others go on. Raises `KeyboardInterrupt`."""
        self._ended.append(point.folder)
        try:
            code = run(point, self.allocation)
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
        """Nothing runs: a run here ends before the watch does."""


@dataclass
class SlurmExecutor:
    """A job of SLURM for each run; several are followed at the same time."""

    slurm: Slurm
    at_most: int
    _monitored: dict[Path, MonitoredJob] = field(default_factory=dict)

    @property
    def poll_s(self) -> float:
        return self.slurm.poll_s

    @property
    def waits(self) -> bool:
        return self.slurm.wait

    def free(self) -> bool:
        return len(self._monitored) < self.at_most

    def begin(self, point: ComposedRun) -> None:
        self._follow(submit.submit([point], self.slurm))

    def adopt(self, folder: Path) -> bool:
        """Follow the job that an earlier session has submitted, if it is in the queue. Raises `UserError`."""
        submission = job_files.submitted(folder)
        if submission is None:
            return False
        job = submission["job_id"]
        try:
            state = queue.state(job)
        except OSError as error:
            raise UserError(f"cluster=slurm: {error}") from None
        if state.is_over:
            return False
        self._follow(Job(job, [folder]))
        return True

    def _follow(self, job: Job) -> None:
        self._monitored[job.folders[0]] = MonitoredJob(job, shows_log=False)

    def ended(self) -> Iterator[Path]:
        for folder, monitored in list(self._monitored.items()):
            if monitored.poll():
                del self._monitored[folder]
                monitored.exit_code(folder)  # prints why a job left none
                yield folder

    def stop(self) -> None:
        """Cancel the jobs and wait for their end; with ``cluster.wait=false`` they are left to themselves."""
        if not self.slurm.wait:
            return
        jobs = [monitored.job for monitored in self._monitored.values()]
        for job in jobs:
            with suppress(UserError):  # it is over already
                cancel(job.folders[0])
        if jobs:
            monitor.follow(jobs, self.slurm.poll_s)
