"""Watches a job from outside, through the queue and the run folder, which is shared."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from launcher.core.console import one_line, to_stderr
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.slurm import job_files, queue
from launcher.slurm.job_files import Job

MEMORY = re.compile(r"exceeded memory limit|oom[-_ ]kill|out[- ]of[- ]memory handler", re.IGNORECASE)
"""What SLURM writes into the log of a job that it ended for its memory, whichever way the site watches that."""

LATE_S = 5.0
"""How long a shared folder may take to show what a job wrote before it ended."""

PROGRESS_S = 10.0
"""How often the progress of several jobs is said, whose logs are not shown."""


class Tail:
    """Copies what is appended to a file, whole lines only, without those of submitit."""

    def __init__(self, path: Path, to: TextIO) -> None:
        self._path, self._to, self._at = path, to, 0

    def copy(self) -> None:
        """Copy what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines = [line for line in file if line.endswith(b"\n")]
        self._at += sum(map(len, lines))
        for line in lines:
            if not line.startswith((b"submitit ", b"srun: ", b"slurmstepd: ")):
                self._to.write(line.decode("utf-8", errors="replace"))
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
                cancel(job.folders[0])
        _followed(jobs, poll_s)
        raise


def _followed(jobs: list[Job], poll_s: float) -> dict[Path, int]:
    watched = [Watched(job, shows_log=len(jobs) == 1) for job in jobs]
    told, at = "", time.monotonic()
    while sum(one.look() for one in watched) < len(watched):
        if len(jobs) > 1 and time.monotonic() - at > PROGRESS_S and (now := progress(watched)) != told:
            to_stderr(f"slurm: {now}")
            told, at = now, time.monotonic()
        time.sleep(poll_s)
    return {folder: one.code(folder) for one in watched for folder in one.job.folders}


def progress(watched: Sequence[Watched]) -> str:
    """Return how many jobs are in which state, how many runs are over, and how many samples there are."""
    states = Counter(one.state.split(" ")[0] or "unknown" for one in watched)
    runs = [(one.job.id, folder) for one in watched for folder in one.job.folders]
    over = sum(job_files.exit_code(folder, job) is not None for job, folder in runs)
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{jobs} · {over} of {len(runs)} runs over · {sum(_samples(folder) for _, folder in runs)} samples"


class Watched:
    """A job as it is seen from outside; ``state`` is SLURM's, with the reason if there is one."""

    def __init__(self, job: Job, shows_log: bool) -> None:
        self.job, self.state, self.over = job, "", False
        out, err = logs(job.folders[0])
        self._tails = [Tail(err, sys.stderr), Tail(out, sys.stdout)] if shows_log else []
        self._ended: set[Path] = set()

    def look(self) -> bool:
        """Say what is new; return whether the job is over."""
        if self.over:
            return True
        state = _state(self.job.id)
        if state and state != self.state:
            to_stderr(f"slurm: job {self.job.id} {state}")
            self.state = state
        self.over = state.split(" ")[0] in queue.OVER | {queue.GONE}
        if self.over:
            _settle(self.job)
        self._tell()
        return self.over

    def code(self, folder: Path) -> int:
        """Return the exit code that the job left for a run; 1, with the end of its log, if it left none."""
        code = job_files.exit_code(folder, self.job.id)
        if code == 0:
            return 0
        words = _last_words(folder) if code is None else ""
        said = [f"job {self.job.id} ended as {self.state} without a result for {folder}"] if code is None else []
        if "OUT_OF_MEMORY" in self.state or MEMORY.search(words):
            said.append("it had too little memory; accepted is a larger cluster.mem_gb")
        if said:
            to_stderr(f"launcher: {': '.join(said)}{words}")
        return code or 1

    def _tell(self) -> None:
        for tail in self._tails:
            tail.copy()
        for folder in [] if self._tails else self.job.folders:
            code = job_files.exit_code(folder, self.job.id)
            if code is not None and folder not in self._ended:
                self._ended.add(folder)
                to_stderr(f"slurm: job {self.job.id}: {folder} ended with {code}")


def _state(job: str) -> str:
    """Return ``STATE (reason)``; empty while SLURM's controller does not answer."""
    try:
        state, reason = queue.state(job)
    except OSError as error:
        to_stderr(f"slurm: {error}")
        return ""
    return f"{state} ({reason})" if reason else state


def _settle(job: Job) -> None:
    """Wait until a shared folder shows what the job wrote last, or until it is too late for that."""
    deadline = time.monotonic() + LATE_S
    while time.monotonic() < deadline:
        for folder in job.folders:
            list(RunFolder(folder).slurm.iterdir())  # makes a network file system look again
        if all(job_files.exit_code(folder, job.id) is not None for folder in job.folders):
            return
        time.sleep(0.2)


def _last_words(folder: Path) -> str:
    _, err = logs(folder)
    if not err.exists():
        return f"; it wrote no log: {err}"
    return f"; the end of {err}:\n" + "\n".join(err.read_text(errors="replace").splitlines()[-15:])


def status(folder: Path) -> int:
    """Print where the job of a run folder stands, or a line for each point of a sweep, and report the sweep again.

    Returns 0, or the worst exit code of what is over.
    """
    found = job_files.submitted_in(folder)
    if found == [folder]:
        return _status(folder)
    worst = max(_line(point, folder) for point in found)
    if RunFolder(folder).multirun.is_file():
        _compare(folder)
    return worst


def _compare(folder: Path) -> None:
    from launcher.report import sweep

    sweep.write(folder)
    print(f"report  {RunFolder(folder).sweep}, {RunFolder.sweep_page}")


def _status(folder: Path) -> int:
    job = job_files.submission(folder)["job_id"]
    state, code = _stands(folder, job)
    err = logs(folder)[1]
    print(f"job      {job}")
    print(f"state    {state}")
    print(f"samples  {_samples(folder)}")
    print(f"log      {err}")
    if said := _said_last(err):
        print(f"said     {one_line(said)}")
    if code is not None:
        found = RunFolder(folder).results
        print(f"result   {found if found.exists() else 'none'} (exit code {code})")
    return code or 0


def _line(point: Path, sweep: Path) -> int:
    job = job_files.submission(point)["job_id"]
    state, code = _stands(point, job)
    end = f"{state}, exit code {code}" if code is not None else state
    print(f"point {point.relative_to(sweep)}: job {job} · {end} · {_samples(point)} samples")
    return code or 0


def _stands(folder: Path, job: str) -> tuple[str, int | None]:
    """Return the state of a run's job, and the run's exit code once it is over: 1 if the job left none."""
    state, code = _state(job) or "unknown", job_files.exit_code(folder, job)
    over = state.split(" ")[0] in queue.OVER | {queue.GONE}
    return state, 1 if code is None and over else code


def _said_last(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    ours = [line for line in lines if line.strip() and not line.startswith(("submitit ", "srun: ", "slurmstepd: "))]
    return ours[-1] if ours else ""


def _samples(folder: Path) -> int:
    file = RunFolder(folder).samples
    return file.read_bytes().count(b"\n") if file.exists() else 0


def cancel(folder: Path) -> int:
    """Cancel the job of a run folder, or all jobs of a sweep; the mark says that it is not to be queued again.

    Returns 0. Raises `UserError`.
    """
    found = job_files.submitted_in(folder)
    jobs = {job_files.submission(point)["job_id"]: point for point in found}
    for point in found:
        job_files.mark_cancelled(point, job_files.submission(point)["job_id"])
    for job, point in jobs.items():
        if len(jobs) == 1 or _state(job).split(" ")[0] not in queue.OVER | {queue.GONE}:
            _cancel(job, point)
    return 0


def _cancel(job: str, folder: Path) -> None:
    try:
        queue.cancel(job)
    except OSError as error:
        raise UserError(f"run={folder}: job {job} was not cancelled: {error}") from None
    to_stderr(f"slurm: job {job} is being cancelled")


def logs(folder: Path) -> tuple[Path, Path]:
    """Return the files with the standard output and the standard error of a run folder's job."""
    found = job_files.submission(folder)
    place, job = Path(found["log_folder"]), found["job_id"]
    return place / f"{job}_0_log.out", place / f"{job}_0_log.err"
