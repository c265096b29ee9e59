"""Hands a run to SLURM through submitit."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import launcher
from launcher.cluster import Resources, Slurm, resources
from launcher.config import Run
from launcher.errors import UserError
from launcher.submission import points, queue
from launcher.submission.points import Job, Point

INSTALL = "cluster=slurm: the Python package submitit is not installed; install the extra 'slurm'"


def submit(work: list[Point], slurm: Slurm) -> Job:
    """Queue one job for runs that need the same server; ``slurm/job.json`` of each folder says which.

    Raises `UserError`.
    """
    from launcher.submission import inside

    asked = _asked(work[0].run, slurm)
    executor = _executor(slurm, asked, work[0].folder)
    if not executor.can_submit():
        raise UserError("cluster=slurm: there is no sbatch and srun on this machine; submit from a login node")
    for point in work:
        _refuse_twice(point.folder)
    try:
        found = executor.submit(inside.carry_out, work, asked, slurm.requeues)
    except RuntimeError as error:  # submitit's answer to sbatch's exit code
        raise UserError(f"cluster=slurm: sbatch refused the job: {_said(error)}") from None
    job = Job(str(found.job_id), [point.folder for point in work])
    facts = {"job_id": job.id, "log_folder": str(executor.folder), "submitted_at": datetime.now(UTC).isoformat()}
    for folder in job.folders:
        points.write(folder, points.JOB, facts)
    print(f"slurm: job {job.id} for {', '.join(map(str, job.folders))}", file=sys.stderr, flush=True)
    return job


def _refuse_twice(folder: Path) -> None:
    """Raise `UserError` if an earlier job for this folder may still write to it."""
    if points.read(folder, points.JOB) is None:
        return
    job, _ = points.job_of(folder)
    try:
        state, _ = queue.state(job)
    except OSError as error:
        raise UserError(f"cluster=slurm: {error}") from None
    if state not in queue.OVER | {queue.GONE}:
        raise UserError(f"{folder}: job {job} is {state}; end it with mode=cancel run={folder}")


def script(run: Run, slurm: Slurm, folder: Path) -> str:
    """Return the sbatch file that `submit` would hand in. Raises `UserError`."""
    return str(_executor(slurm, _asked(run, slurm), folder).text())


def _asked(run: Run, slurm: Slurm) -> Resources:
    return resources(slurm, run.parallelism, getattr(run.backend, "replicas", 1), run.backend.spreads)


def _executor(slurm: Slurm, asked: Resources, folder: Path) -> Any:
    try:
        from launcher.submission.executor import Executor
    except ImportError:
        raise UserError(INSTALL) from None
    executor = Executor(folder.resolve() / points.FOLDER)
    executor.update_parameters(**_parameters(slurm, asked))
    return executor


def _parameters(slurm: Slurm, asked: Resources) -> dict[str, Any]:
    """Return submitit's names for what the job asks for; srun is told the CPUs again, for it does not inherit them."""
    chosen: dict[str, Any] = {
        "job_name": "launcher",
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks,
        "cpus_per_task": asked.cpus,
        "gpus_per_node": asked.gpus or None,
        "mem": f"{round(slurm.mem_gb * 1024)}MB" if slurm.mem_gb else None,
        "time": slurm.timeout_min,
        "signal_delay_s": slurm.signal_delay_s,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclusive": slurm.exclusive or None,
        "setup": [f"export PYTHONPATH={shlex.quote(str(_home()))}${{PYTHONPATH:+:$PYTHONPATH}}", *slurm.setup],
        "srun_args": [f"--cpus-per-task={asked.cpus}", *(["--distribution=block"] if asked.nodes > 1 else [])],
        "additional_parameters": {("requeue" if slurm.requeues else "no-requeue"): True} | slurm.additional_parameters,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _home() -> Path:
    """The folder that this package lies in: a job imports the same code, also that of a checkout."""
    return Path(launcher.__file__).resolve().parent.parent


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error" in line.lower()]
    return (lines or str(error).splitlines() or [type(error).__name__])[-1].strip()
