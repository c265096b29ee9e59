"""Follows jobs from outside to their end, through the queue and the run folders, which are shared."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from launcher.core.console import to_stderr
from launcher.core.errors import ResumeError, UserError
from launcher.core.lines import Tail
from launcher.core.run_folder import RunFolder, SampleCounter
from launcher.slurm import job_files, queue, refusals
from launcher.slurm.cancel import cancel_job
from launcher.slurm.job_files import Job
from launcher.slurm.queue import JobState

OUT_OF_MEMORY = re.compile(r"exceeded memory limit|oom[-_ ]kill|out[- ]of[- ]memory handler", re.IGNORECASE)
"""What SLURM writes into the log of a job that it ended for its memory; sites differ in how they watch it."""

SHARED_FOLDER_DELAY_S = 5.0
"""How long a shared folder may take to show what a job wrote before it ended."""

PROGRESS_INTERVAL_S = 10.0
"""How often the progress of several jobs is printed, whose logs are not shown."""


class LogCopy:
    """Copies what is appended to a job's log, without the lines of SLURM and submitit."""

    def __init__(self, path: Path, to: TextIO) -> None:
        self._tail, self._to = Tail(path), to

    def copy(self) -> None:
        """Copy what is new."""
        for _, line in self._tail.lines():
            text = line.decode("utf-8", errors="replace")
            if not job_files.is_slurms(text):
                self._to.write(text)
        self._to.flush()


def follow(jobs: list[Job], poll_s: float) -> dict[Path, int]:
    """Show the states that jobs go through, until all are over; return the exit code of each run folder.

    A single job's log is shown as it grows. Ctrl-C cancels all jobs, waits for their end, and is raised again.
    """
    try:
        return _followed(jobs, poll_s)
    except KeyboardInterrupt:
        for job in jobs:
            with suppress(UserError):  # it is over already
                cancel_job(job)
        _followed(jobs, poll_s)
        raise


def _followed(jobs: list[Job], poll_s: float) -> dict[Path, int]:
    monitored = [MonitoredJob(job, shows_log=len(jobs) == 1) for job in jobs]
    printed, at = "", time.monotonic()
    while sum(one.poll() for one in monitored) < len(monitored):
        if len(jobs) > 1 and time.monotonic() - at > PROGRESS_INTERVAL_S:
            at = time.monotonic()
            if (now := progress(monitored)) != printed:
                to_stderr(f"slurm: {now}")
                printed = now
        time.sleep(poll_s)
    return {folder: one.exit_code(folder) for one in monitored for folder in one.job.folders}


def progress(monitored: Sequence[MonitoredJob]) -> str:
    """Return how many jobs are in which state, how many runs are over, and how many samples there are."""
    states = Counter(one.state.name if one.state else "unknown" for one in monitored)
    runs = [(one.job.id, folder) for one in monitored for folder in one.job.folders]
    over = sum(job_files.exit_code(folder, job) is not None for job, folder in runs)
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{jobs} · {over} of {len(runs)} runs over · {sum(one.samples() for one in monitored)} samples"


class MonitoredJob:
    """A job as it is seen from outside; ``state`` is the last one that SLURM's controller returned."""

    def __init__(self, job: Job, shows_log: bool) -> None:
        self.job, self.over = job, False
        self.state: JobState | None = None
        out, err = job_files.logs(job.folders[0])
        self._logs = [LogCopy(err, sys.stderr), LogCopy(out, sys.stdout)] if shows_log else []
        self._ended: set[Path] = set()
        self._counters = [SampleCounter(folder) for folder in job.folders]

    def poll(self) -> bool:
        """Print what is new; return whether the job is over."""
        if self.over:
            return True
        state = queue.state_if_known(self.job.id)
        if state is not None and state != self.state:
            to_stderr(f"slurm: job {self.job.id} {state}")
            if told := refusals.hint(state):
                to_stderr(f"slurm: it may wait forever: {told}")
            self.state = state
        self.over = state is not None and state.is_over
        if self.over:
            _wait_for_exit_codes(self.job)
        self._print_new()
        return self.over

    def samples(self) -> int:
        """Return how many samples of all runs have a record by now."""
        found = 0
        for counter in list(self._counters):
            try:
                found += counter.count()
            except ResumeError as error:  # printed once; the other runs are counted
                to_stderr(f"slurm: {error}")
                self._counters.remove(counter)
        return found

    def exit_code(self, folder: Path) -> int:
        """Return the exit code that the job left for a run; 1, and the end of its log is printed, if it left none."""
        code = job_files.exit_code(folder, self.job.id)
        if code == 0:
            return 0
        log = _end_of_log(folder) if code is None else ""
        reasons = [f"job {self.job.id} ended as {self.state} without a result for {folder}"] if code is None else []
        if (self.state and self.state.name == "OUT_OF_MEMORY") or OUT_OF_MEMORY.search(log):
            reasons.append("it had too little memory; set a larger cluster.mem_gb")
        if reasons:
            to_stderr(f"launcher: {': '.join(reasons)}{log}")
        return code or 1

    def _print_new(self) -> None:
        for log in self._logs:
            log.copy()
        for folder in [] if self._logs else self.job.folders:
            code = job_files.exit_code(folder, self.job.id)
            if code is not None and folder not in self._ended:
                self._ended.add(folder)
                to_stderr(f"slurm: job {self.job.id}: {folder} ended with {code}")


def _wait_for_exit_codes(job: Job) -> None:
    """Wait until a shared folder shows what the job wrote last, at most `SHARED_FOLDER_DELAY_S`."""
    deadline = time.monotonic() + SHARED_FOLDER_DELAY_S
    while time.monotonic() < deadline:
        for folder in job.folders:
            list(RunFolder(folder).slurm.iterdir())  # makes a network file system look again
        if all(job_files.exit_code(folder, job.id) is not None for folder in job.folders):
            return
        time.sleep(0.2)


def _end_of_log(folder: Path) -> str:
    _, err = job_files.logs(folder)
    if not err.exists():
        return f"; it wrote no log: {err}"
    return f"; the end of {err}:\n" + "\n".join(err.read_text(errors="replace").splitlines()[-15:])
