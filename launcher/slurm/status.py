"""``launcher status RUN``: the state of a run's job, or of all jobs of a sweep."""

from __future__ import annotations

from pathlib import Path

from launcher.core.console import one_line
from launcher.core.errors import ResumeError
from launcher.core.run_folder import RunFolder, SampleCounter
from launcher.slurm import job_files, queue, refusals
from launcher.slurm.queue import JobState


def status(folder: Path) -> int:
    """Print the state of a run folder's job, or one line for each point of a sweep, whose report is written again.

    Returns the worst exit code of the runs that are over; 0 if there is none. Raises `UserError`.
    """
    runs = job_files.submitted_in(folder)
    if runs == [folder]:
        return _run_status(folder)
    worst = max(_point_status(run, folder) for run in runs)
    if RunFolder(folder).multirun.is_file():
        _write_sweep(folder)
    return worst


def _write_sweep(folder: Path) -> None:
    from launcher.report import sweep

    sweep.write(folder)
    print(f"report  {RunFolder(folder).sweep}, {RunFolder.sweep_page}")


def _run_status(folder: Path) -> int:
    job = job_files.submission(folder)["job_id"]
    state, code = _state_and_code(folder, job)
    err = job_files.logs(folder)[1]
    print(f"job      {job}")
    print(f"state    {state or 'unknown'}")
    if state is not None and (told := refusals.hint(state)):
        print(f"waits    {told}")
    print(f"samples  {sample_count(folder)}")
    print(f"log      {err}")
    if line := _last_line(err):
        print(f"output   {one_line(line)}")
    if code is not None:
        results = RunFolder(folder).results
        print(f"result   {results if results.exists() else 'none'} (exit code {code})")
    return code or 0


def _point_status(point: Path, sweep: Path) -> int:
    job = job_files.submission(point)["job_id"]
    state, code = _state_and_code(point, job)
    end = f"{state or 'unknown'}, exit code {code}" if code is not None else str(state or "unknown")
    told = f" · {waits}" if state is not None and (waits := refusals.hint(state)) else ""
    what = "checkpoint" if RunFolder(sweep).watch.is_file() else "point"
    print(f"{what} {point.relative_to(sweep)}: job {job} · {end} · {sample_count(point, ' samples')}{told}")
    return code or 0


def _state_and_code(folder: Path, job: str) -> tuple[JobState | None, int | None]:
    """Return the state of a run's job, and the run's exit code once it is over: 1 if the job left none."""
    state, code = queue.state_if_known(job), job_files.exit_code(folder, job)
    if code is None and state is not None and state.is_over:
        code = 1
    return state, code


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if line.strip() and not job_files.is_slurms(line)), "")


def sample_count(folder: Path, unit: str = "") -> str:
    """Return how many samples of a run have a record, followed by ``unit``; or which line is damaged."""
    try:
        return f"{SampleCounter(folder).count()}{unit}"
    except ResumeError as error:
        return str(error)
