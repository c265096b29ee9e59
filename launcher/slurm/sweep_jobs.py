"""The jobs of a batch of points: one for each group that needs the same server."""

from __future__ import annotations

import shlex
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.pipeline.config import ComposedRun
from launcher.slurm import monitor, submit
from launcher.slurm.job_files import Job


def submit_groups(groups: list[list[ComposedRun]], under_way: list[Job]) -> dict[Path, int]:
    """Submit a job for each group of points; follow the jobs to their end, or print how to get their status.

    ``under_way`` are the jobs of the same sweep that earlier batches left in the queue; the jobs that this batch leaves
    there are added. Returns the exit code of each run folder: 0 without ``cluster.wait``, 1 for a job that SLURM
    refused.
    """
    codes: dict[Path, int] = {}
    jobs: list[Job] = []
    for group in groups:
        job = _submit(group, [*under_way, *jobs])
        codes |= {point.folder: 0 if job else 1 for point in group}
        jobs += [job] if job else []
    if not jobs or not groups[0][0].slurm.wait:
        under_way += jobs
        return codes
    return codes | monitor.follow(jobs, groups[0][0].slurm.poll_s)


def _submit(group: list[ComposedRun], before: list[Job]) -> Job | None:
    try:
        job = submit.submit(group, group[0].slurm, before)
    except UserError as error:
        to_stderr(f"launcher: {error}")
        return None
    if not group[0].slurm.wait:
        folder = shlex.quote(str(job.folders[0]))
        to_stderr(f"slurm: status: launcher status {folder}; cancel: launcher cancel {folder}")
    return job
