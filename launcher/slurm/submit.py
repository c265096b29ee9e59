"""Submits runs to SLURM through submitit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import launcher
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.pipeline.config import ComposedRun, Run
from launcher.pipeline.judge import check_processes
from launcher.settings.cluster import Resources, Slurm, resources
from launcher.slurm import container, job_files, memory, queue, refusals
from launcher.slurm.container import ContainerCommand
from launcher.slurm.job_files import Job, Submission

INSTALL = "cluster=slurm: the Python package submitit is not installed: pip install 'nemo-megatron-launcher[slurm]'"


def submit(work: list[ComposedRun], slurm: Slurm, before: Sequence[Job] = ()) -> Job:
    """Queue one job for runs that need the same server; ``slurm/job.json`` of each folder says which.

    At most ``cluster.array_parallelism`` jobs of a sweep run at once: this one waits for the end of the job that many
    places ahead in ``before``. Raises `UserError`.
    """
    from launcher.slurm import job_main

    needs = resources_of(work[0].run, slurm)
    _check_environment(slurm)
    folders = [point.folder for point in work]
    executor = _executor(work[0].run, slurm, needs, folders, _predecessor(slurm, before))
    if not executor.can_submit():
        raise UserError("cluster=slurm: there is no sbatch and srun on this machine; submit from a login node")
    for point in work:
        _check_not_running(point.folder)
    _tell_missing(work[0].run)
    try:
        with redirect_stderr(StringIO()):  # submitit prints what the error says
            found = executor.submit(job_main.run_job, work, needs, slurm.requeues)
    except RuntimeError as error:  # submitit's answer to sbatch's exit code
        raise UserError(
            f"cluster=slurm: sbatch refused the job: {refusals.explained(str(error), slurm, needs)}"
        ) from None
    job = Job(str(found.job_id), folders)
    submitted_at = datetime.now(UTC).isoformat()
    submission = Submission(job_id=job.id, log_folder=str(executor.folder), submitted_at=submitted_at)
    for folder in job.folders:
        job_files.write_submission(folder, submission)
    to_stderr(f"slurm: job {job.id} for {', '.join(map(str, job.folders))}")
    return job


def _check_environment(slurm: Slurm) -> None:
    missing = [name for name in slurm.environment if name not in os.environ]
    if missing:
        raise UserError(f"cluster.environment: {', '.join(missing)}: not set here, and the job needs it")


def _predecessor(slurm: Slurm, before: Sequence[Job]) -> Job | None:
    limit = slurm.array_parallelism
    return before[-limit] if limit and len(before) >= limit else None


def _check_not_running(folder: Path) -> None:
    """Raise `UserError` if an earlier job for this folder may still write to it."""
    submission = job_files.submitted(folder)
    if submission is None:
        return
    job = submission["job_id"]
    try:
        state = queue.state(job)
    except OSError as error:
        raise UserError(f"cluster=slurm: {error}") from None
    if not state.is_over:
        raise UserError(f"{folder}: job {job} is {state}; to end it: launcher cancel {shlex.quote(str(folder))}")


def script(run: Run, slurm: Slurm, folder: Path) -> str:
    """Return the sbatch file that `submit` would hand in. Raises `UserError`."""
    return str(_executor(run, slurm, resources_of(run, slurm), [folder]).text())


def resources_of(run: Run, slurm: Slurm) -> Resources:
    """Return the resources of a job for the run. Raises `UserError` for more than a node has."""
    replicas = run.backend.maximum_replicas
    found = resources(slurm, run.parallelism, replicas, run.backend.spread, memory.per_process_gib(run, slurm))
    if run.used_judge is not None:
        check_processes(run.used_judge, found.nodes * found.tasks)
    return found


def _executor(run: Run, slurm: Slurm, needs: Resources, folders: Sequence[Path], predecessor: Job | None = None) -> Any:
    try:
        from launcher.slurm.submitit_executor import Executor
    except ImportError:
        raise UserError(INSTALL) from None
    first = RunFolder(folders[0].resolve())
    in_container = None
    if slurm.container_image:
        names = list(dict.fromkeys([*slurm.environment, *run.variables()]))
        in_container = container.container_command(
            replace(slurm, environment=names), _code_folder(), folders, run.model.path, bool(needs.gpus), first.requeue
        )
    executor = Executor(first.slurm, python=in_container and in_container.python)
    executor.update_parameters(**_parameters(slurm, needs, predecessor, in_container))
    return executor


def _parameters(
    slurm: Slurm, needs: Resources, predecessor: Job | None, in_container: ContainerCommand | None
) -> dict[str, Any]:
    """Return what the job requests, by submitit's names."""
    chosen: dict[str, Any] = {
        "job_name": slurm.name,
        "nodes": needs.nodes,
        "ntasks_per_node": needs.tasks,
        "cpus_per_task": needs.cpus,
        "gpus_per_node": needs.gpus or None,
        "mem": f"{int(needs.mem_gb * 1024)}MB" if needs.mem_gb else None,
        "time": slurm.timeout_min,
        "signal_delay_s": slurm.signal_delay_s,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclusive": slurm.exclusive or None,
        "setup": [*([] if in_container else [_python_path()]), *slurm.setup],
        "teardown": in_container.teardown if in_container else None,
        "srun_args": [*_srun_args(slurm, needs), *(in_container.srun_args if in_container else [])],
        "additional_parameters": _options(slurm, predecessor),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _python_path() -> str:
    return f"export PYTHONPATH={shlex.quote(str(_code_folder()))}${{PYTHONPATH:+:$PYTHONPATH}}"


def _srun_args(slurm: Slurm, needs: Resources) -> list[str]:
    """Tell srun the CPUs again: it does not inherit them."""
    spread = ["--distribution=block"] if needs.nodes > 1 else []
    return [f"--cpus-per-task={needs.cpus}", *spread, *slurm.srun_args]


def _options(slurm: Slurm, predecessor: Job | None) -> dict[str, Any]:
    """Return options of sbatch that submitit has no name for, the user's among them."""
    given = dict(slurm.additional_parameters)
    if predecessor is not None:
        given["dependency"] = ",".join(filter(None, [given.get("dependency"), f"afterany:{predecessor.id}"]))
    export = {"export": "ALL"} if slurm.environment else {}
    return {("requeue" if slurm.requeues else "no-requeue"): True} | export | given


def _code_folder() -> Path:
    """Return the folder that holds this package: a job imports the same code, also that of a checkout."""
    return Path(launcher.__file__).resolve().parent.parent


def _tell_missing(run: Run) -> None:
    """Say that the checkpoint is not on this machine: it may be on the nodes, and a shared folder is on both."""
    path = run.model.path
    if path and ":" not in path and not Path(path).exists():
        to_stderr(f"slurm: model.path={path}: not on this machine; the job fails unless its node has it")
