"""What the tests of jobs do on an emulated SLURM."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.running import killed, program

NODE = Path(__file__).parent / "scripts" / "slurm_node.sh"
ROOT = Path(__file__).parents[3]
ECHO = ("engine=echo", "model=none", "tasks=[addition,capitals]", "evaluate.limit=20")
SHORT = ("engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=16")
JUDGED = (
    *("engine=echo", "model=none", "tasks=[echo_judged]", "evaluate.limit=16"),
    *("judge=deployment", "engine@judge.engine=echo"),
)
"""As `SHORT`, with a judge that the job serves too."""
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


@contextmanager
def following(slurm: Environment, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Submit a run, a sweep (``-m``) or a watch, and follow it; after any failure, no monitor and no job is left."""
    with program(command(folder, "cluster=slurm", *arguments), Path("/tmp"), slurm) as process:
        try:
            yield process
        finally:
            if killed(process):
                for job in {job_of(file.parent.parent) for file in folder.rglob("slurm/job.json")}:
                    call(slurm, "scancel", "--signal=KILL", "--full", job)
                    call(slurm, "scancel", job)


def node(slurm: Environment, action: str, name: str) -> None:
    done = subprocess.run([NODE, action, name], env=slurm, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@contextmanager
def without(slurm: Environment, name: str, end: str, again: str) -> Iterator[None]:
    """Take a node away, and afterwards wait until all nodes are there for the next test."""
    node(slurm, end, name)
    try:
        yield
    finally:
        node(slurm, again, name)
        call(slurm, "scontrol", "update", f"nodename={name}", "state=resume")
        wait_for(lambda: set(call(slurm, "sinfo", "-Nh", "-o", "%T").stdout.split()) == {"idle"}, "the node")


def release(slurm: Environment, folder: Path) -> None:
    """Start a requeued job, which SLURM would hold for two minutes.

    It starts two seconds later: a node refuses a job within the second of its end, with "Job credential revoked" in
    SLURM's log.
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
