"""The files of a job in a run folder: its id, its logs, each run's exit code, and two marks."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from launcher.core.errors import UserError
from launcher.core.files import read_json, replace_json
from launcher.core.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """One job and the run folders that it works for, in order."""

    id: str
    folders: list[Path]


class Submission(TypedDict):
    """``slurm/job.json``: the job that was submitted for a run folder, and the folder with the job's log."""

    job_id: str
    log_folder: str
    submitted_at: str


class JobOutcome(TypedDict):
    """``slurm/outcome.json``: the exit code of a run, and how often SLURM had queued its job again."""

    job_id: str
    restarts: int
    code: int


def write_submission(folder: Path, submission: Submission) -> None:
    replace_json(RunFolder(folder).job, submission)


def submitted(folder: Path) -> Submission | None:
    """Return the submission of a run folder; None if no job was submitted for it."""
    found: Submission | None = read_json(RunFolder(folder).job)
    return found


def submission(folder: Path) -> Submission:
    """Return the submission of a run folder. Raises `UserError` if there is none."""
    found = submitted(folder)
    if found is None:
        raise _never_submitted(folder)
    return found


def submitted_in(folder: Path) -> list[Path]:
    """Return the run folder itself, or the points of a sweep folder, that a job was submitted for.

    Raises `UserError` if there is none.
    """
    found = [path.parents[1] for path in folder.rglob(str(RunFolder.job))]
    if not found:
        raise _never_submitted(folder)
    return sorted(found, key=lambda path: [(len(part), part) for part in path.parts])


def _never_submitted(folder: Path) -> UserError:
    told = f"{folder}: no job was submitted for this folder; there is no {RunFolder(folder).job}"
    if not folder.is_dir():
        return UserError(f"{told}, nor such a folder")
    return UserError(f"{told}; a run on this machine, or one that submits its job later, is shown by: {view(folder)}")


def view(folder: Path) -> str:
    """Return the command that shows a run."""
    return f"launcher view {shlex.quote(str(folder))}"


def write_exit_code(folder: Path, job: str, restarts: int, code: int) -> None:
    replace_json(RunFolder(folder).outcome, JobOutcome(job_id=job, restarts=restarts, code=code))


def exit_code(folder: Path, job: str) -> int | None:
    """Return the exit code that a job left for a run folder; None while it has left none."""
    found: JobOutcome | None = read_json(RunFolder(folder).outcome)
    return found["code"] if found is not None and found["job_id"] == job else None


def mark_cancelled(folder: Path, job: str) -> None:
    """Mark that a job must not be queued again."""
    replace_json(RunFolder(folder).cancelled, job)


def is_cancelled(folder: Path, job: str) -> bool:
    return bool(read_json(RunFolder(folder).cancelled) == job)


def mark_requeue(folder: Path, job: str) -> None:
    """Ask the batch script of a job in a container to queue it again."""
    replace_json(RunFolder(folder).requeue, job)


def logs(folder: Path) -> tuple[Path, Path]:
    """Return the files with the standard output and the standard error of a run folder's job."""
    found = submission(folder)
    log_folder, job = Path(found["log_folder"]), found["job_id"]
    return log_folder / f"{job}_0_log.out", log_folder / f"{job}_0_log.err"


def is_slurms(line: str) -> bool:
    """Tell whether SLURM or submitit wrote a line of a job's log."""
    return line.startswith(("submitit ", "srun: ", "slurmstepd: ", "slurmstepd-"))
