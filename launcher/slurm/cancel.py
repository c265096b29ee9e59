"""``launcher cancel RUN``: end the job of a run, or all jobs of a sweep."""

from __future__ import annotations

from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.slurm import job_files, queue
from launcher.slurm.job_files import Job


def cancel(folder: Path) -> int:
    """Cancel the jobs of a run folder or a sweep folder, and mark that they must not be queued again.

    Returns 0. Raises `UserError` where no job was submitted or SLURM refuses.
    """
    runs = job_files.submitted_in(folder)
    jobs = {job_files.submission(run)["job_id"]: run for run in runs}
    for run in runs:
        job_files.mark_cancelled(run, job_files.submission(run)["job_id"])
    for job, run in jobs.items():
        state = queue.state_if_known(job)
        if state is not None and state.is_over:
            to_stderr(f"slurm: job {job} is over: {state}")
        else:
            _cancel(job, run)
    return 0


def cancel_job(job: Job) -> None:
    """Cancel a job, and mark all of its run folders. Raises `UserError` where SLURM refuses."""
    for folder in job.folders:
        job_files.mark_cancelled(folder, job.id)
    _cancel(job.id, job.folders[0])


def _cancel(job: str, folder: Path) -> None:
    try:
        queue.cancel(job)
    except OSError as error:
        raise UserError(f"run={folder}: job {job} was not cancelled: {error}") from None
    to_stderr(f"slurm: job {job} is being cancelled")
