"""What the tests of jobs do to a real SLURM, and look at."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ECHO = ("engine=echo", "model=none", "tasks=[addition,capitals]", "evaluate.limit=20")
SHORT = ("engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=16")
SLOW = ("engine.latency_s=0.2", "evaluate.concurrency=1", "validate.skip=[greedy repeats]")
Environment = dict[str, str]


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *arguments, f"hydra.run.dir={folder}", "cluster.poll_s=0.2"]


def submit(slurm: Environment, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(slurm, *command(folder, "cluster=slurm", *arguments))


def call(slurm: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=240, env=slurm, cwd="/tmp")


REFERENCE: dict[tuple[str, ...], dict[str, Any]] = {}


def local(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return the results of a quiet run here; several tests compare with the same one."""
    if arguments not in REFERENCE:
        REFERENCE[arguments] = _local(folder, *arguments)
    return REFERENCE[arguments]


def _local(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(command(folder, *arguments)[:-1], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return results(folder)


def results(folder: Path) -> dict[str, Any]:
    loaded = json.loads((folder / "results.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def samples(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "samples.jsonl").read_text() if (folder / "samples.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def job_of(folder: Path) -> str:
    return str(json.loads((folder / "slurm/job.json").read_text())["job_id"])


def state(slurm: Environment, job: str) -> str:
    return call(slurm, "squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)


def left_behind(folder: Path) -> list[str]:
    """Processes that have the run folder on their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "pytest" not in line.split(str(folder))[0]:
            found.append(line)
    return found


def follow(slurm: Environment, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    given = command(folder, "cluster=slurm", *arguments)
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slurm, cwd="/tmp")


@contextmanager
def following(slurm: Environment, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Submit a run and follow it; whatever fails, neither the follower nor the job is left behind."""
    process = follow(slurm, folder, *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
            if (folder / "slurm/job.json").exists():
                call(slurm, "scancel", "--signal=KILL", "--full", job_of(folder))
                call(slurm, "scancel", job_of(folder))


def release(slurm: Environment, folder: Path) -> None:
    """Start a requeued job, which SLURM would hold for two minutes.

    Not in the second in which the node heard of the job's end: it would take it for the old one and refuse it, as
    "Job credential revoked" in SLURM's log.
    """
    scontrol = ("scontrol", "update", f"jobid={job_of(folder)}", "starttime=now+2")
    wait_for(lambda: call(slurm, *scontrol).returncode == 0, "the start")


def finished(slurm: Environment, folder: Path, process: subprocess.Popen[str]) -> str:
    """Wait for the end of a run, starting its job again as often as it is queued again; return what was said."""
    deadline = time.monotonic() + 200
    while True:
        try:
            _, said = process.communicate(timeout=0.3)
            return said
        except subprocess.TimeoutExpired:
            assert time.monotonic() < deadline, "the run did not end"
            if state(slurm, job_of(folder)) == "PENDING":
                release(slurm, folder)
                wait_for(lambda: state(slurm, job_of(folder)) != "PENDING", "the start")
