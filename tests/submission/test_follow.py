"""What SLURM says of a job, as recorded, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.submission import follow, points, queue
from launcher.submission.points import Job

SQUEUE = {
    "OUT_OF_MEMORY|OutOfMemory": ("OUT_OF_MEMORY", "OutOfMemory"),
    "PENDING|Dependency": ("PENDING", "Dependency"),
    "RUNNING|None": ("RUNNING", ""),
}


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose text squeue prints; with ``!`` before it, on standard error with the exit code 1."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    script = (
        f'#!/bin/sh\nread -r line <{said}\ncase $line in "!"*) echo "${{line#!}}" >&2; exit 1;; *) echo "$line"; esac\n'
    )
    (folder / "squeue").write_text(script)
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return said


@pytest.mark.parametrize("line", SQUEUE)
def test_states_are_read(squeue: Path, line: str) -> None:
    squeue.write_text(f"{line}\n")
    assert queue.state("7") == SQUEUE[line]


def test_a_job_that_is_forgotten_is_gone_and_a_silent_controller_is_no_answer(squeue: Path) -> None:
    squeue.write_text("!slurm_load_jobs error: Invalid job id specified\n")
    assert queue.state("7") == (queue.GONE, "")
    squeue.write_text("!slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(OSError, match="Unable to contact"):
        queue.state("7")


LOG = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes may have been killed"


@pytest.mark.parametrize(
    ("state", "log", "code"),
    [
        ("OUT_OF_MEMORY|OutOfMemory", "Killed", None),  # the task itself was killed, and left no result
        ("FAILED|NonZeroExitCode", LOG, None),  # the site watches memory in another way
        ("OUT_OF_MEMORY|OutOfMemory", "", 1),  # one of its children was killed: the run could still report it
    ],
)
def test_a_job_that_ran_out_of_memory_names_the_key(
    squeue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    log: str,
    code: int | None,
) -> None:
    run = tmp_path / "run"
    points.write(run, points.JOB, {"job_id": "7", "log_folder": str(run / points.FOLDER)})
    (run / points.FOLDER / "7_0_log.err").write_text(f"{log}\n")
    if code is not None:
        points.write(run, points.OUTCOME, {"job_id": "7", "restarts": 0, "code": code})
    squeue.write_text(f"{state}\n")
    monkeypatch.setattr(follow, "LATE_S", 0.0)
    assert follow.follow([Job("7", [run])], poll_s=0.01) == {run: 1}
    assert "it had too little memory; accepted is a larger cluster.mem_gb" in capsys.readouterr().err
