"""The entry point of a job: its runs, and queueing it again when its time is over."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from types import FrameType

from launcher.core.console import to_stderr, tolerant
from launcher.core.credentials import is_secret
from launcher.core.errors import TakenOver, UserError
from launcher.core.redaction import hide
from launcher.core.run_folder import RunFolder
from launcher.core.types import INTERRUPTED
from launcher.distributed.allocation import Allocation, allocate
from launcher.distributed.group.agent import run_agent
from launcher.distributed.group.leader import leading
from launcher.pipeline.config import ComposedRun
from launcher.pipeline.servers import ServerPool
from launcher.settings.cluster import Resources
from launcher.slurm import job_files

WARNING = signal.SIGUSR2
"""The signal that SLURM sends some time before it ends or preempts the job."""


OUT_OF_TIME = "a larger cluster.timeout_min, or resume=<run folder>, is needed (cluster.requeues is the limit)"


class JobSignals:
    """Ends the run as Ctrl-C does, once, when the job is cancelled or warned; ``warned`` says which.

    The warning reaches every process of the job, and would end the run's children before the run stops them. It is
    therefore blocked, which children inherit, and a thread waits for it.
    """

    def __init__(self) -> None:
        self.warned = False
        self._stopping = False

    def listen(self) -> None:
        """Install the handlers. A warning that came before, and was blocked, interrupts at once, also this call."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(WARNING, self._warn)  # for threads that were there before
        signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})
        threading.Thread(target=self._wait, name="warning", daemon=True).start()

    def _wait(self) -> None:
        self._warn(signal.sigwait({WARNING}), None)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self.warned = True
        self._stop(number, frame)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            # To the main thread: a system call that blocks it returns only if that thread gets the signal itself.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def run_job(work: list[ComposedRun], requested: Resources, requeues: int) -> None:
    """Run the points of a job one after the other, and exit with the worst of their codes.

    Each leaves its exit code in ``slurm/outcome.json`` of its folder. Those that need the same server share it. A job
    that was warned is queued again instead, at most ``requeues`` times, and continues where it was. Task 0 of a job
    runs this; its other tasks host model processes.
    """
    tolerant()
    allocation, rendezvous_folder = allocate(), RunFolder(work[0].folder).slurm
    if not allocation.leads:
        sys.exit(run_agent(allocation, rendezvous_folder))
    signals, job = JobSignals(), os.environ["SLURM_JOB_ID"]
    if _restarts() > requeues:
        sys.exit(f"launcher: the job was begun {_restarts() + 1} times; cluster.requeues={requeues} is the limit")
    try:
        signals.listen()
        with leading(allocation, rendezvous_folder) as leader:
            _run_points(_unfinished(work, job), requested, job, leader)
    except KeyboardInterrupt:  # before the first run, or after the last one
        pass
    except TakenOver as error:  # SLURM took this node for dead and began the job again elsewhere
        sys.exit(f"launcher: {error}")
    _end(work, job, signals.warned, requeues)


def _end(work: list[ComposedRun], job: str, warned: bool, requeues: int) -> None:
    """Queue the job again if its time is over, or exit with the worst code of its runs."""
    unfinished = _unfinished(work, job)
    if should_requeue(warned, len(unfinished), _restarts(), requeues) and not _cancelled(work, job):
        to_stderr(f"launcher: out of time; queued again, {_restarts() + 1} of {requeues}")
        _requeue(job, work[0])
        sys.exit(INTERRUPTED)
    if warned and unfinished and not _cancelled(work, job):
        to_stderr(f"launcher: out of time after {_restarts() + 1} times; {OUT_OF_TIME}")
    for point in unfinished:
        _write_exit_code(point, job, INTERRUPTED)
    worst = max(job_files.exit_code(point.folder, job) or 0 for point in work)
    if worst:
        sys.exit(worst)


def should_requeue(warned: bool, unfinished: int, restarts: int, requeues: int) -> bool:
    """Tell whether a job queues itself again: only for its time, and only while runs are ``unfinished``.

    A run that failed for any other reason, also for lack of memory, would fail again and counts as finished.
    """
    return warned and unfinished > 0 and restarts < requeues


def _run_points(work: list[ComposedRun], requested: Resources, job: str, allocation: Allocation) -> None:
    """Run the points up to one that is interrupted; the others leave their codes in their folders."""
    with suppress(KeyboardInterrupt), ServerPool() as pool:  # it may come between two runs
        for point in work:
            code = _run_point(point, requested, allocation, pool)
            if code == INTERRUPTED:
                break
            if code == UserError.exit_code:
                to_stderr(f"slurm: {point.folder} failed on the node {socket.gethostname()}")
            _write_exit_code(point, job, code)


def _run_point(point: ComposedRun, requested: Resources, allocation: Allocation, pool: ServerPool) -> int:
    from launcher.pipeline import run

    try:
        check_allocation(requested, allocation, point.slurm.environment)
        point.run.reveal()
        return run.run(point, allocation, pool)
    except TakenOver:
        raise
    except UserError as error:
        to_stderr(f"launcher: {error}")
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1


def _write_exit_code(point: ComposedRun, job: str, code: int) -> None:
    job_files.write_exit_code(point.folder, job, _restarts(), code)


def _unfinished(work: list[ComposedRun], job: str) -> list[ComposedRun]:
    return [point for point in work if job_files.exit_code(point.folder, job) is None]


def _requeue(job: str, first: ComposedRun) -> None:
    """Queue this job again. SLURM then ends this process, whose signals are ignored until the command is done.

    In a container, where SLURM's commands may be missing, the batch script does it.
    """
    if shutil.which("scontrol") is None:
        job_files.mark_requeue(first.folder, job)
        return
    for number in (WARNING, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)


def check_allocation(requested: Resources, found: Allocation, names: list[str]) -> None:
    """Raise `UserError`, before anything loads, if SLURM gave the job less than it requested.

    ``names`` are the environment variables that it needs; the values of secret ones are redacted from then on.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(f"cluster.environment: {', '.join(missing)}: set where the job was submitted, and not in it")
    for name in filter(is_secret, names):
        hide(os.environ[name], name)
    if found.gpus < requested.gpus:
        raise UserError(f"cluster.gpus_per_node: the job requested {requested.gpus} GPUs and sees {found.gpus}")
    if found.world_size != requested.nodes * requested.tasks:
        expected = f"{requested.nodes} nodes with {requested.tasks} tasks each"
        raise UserError(f"cluster.nodes: the job requested {expected} and has {found.world_size} tasks")


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _cancelled(work: list[ComposedRun], job: str) -> bool:
    return any(job_files.is_cancelled(point.folder, job) for point in work)
