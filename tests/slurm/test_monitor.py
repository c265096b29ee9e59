"""Jobs as they are seen from outside: recorded states of SLURM, status, progress and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.core.records import to_line
from launcher.slurm import job_files, monitor, queue
from launcher.slurm.cancel import cancel
from launcher.slurm.job_files import Job, Submission
from launcher.slurm.monitor import MonitoredJob
from launcher.slurm.queue import JobState
from launcher.slurm.status import status
from tests.sample_records import made

SQUEUE = {
    "OUT_OF_MEMORY|OutOfMemory": JobState("OUT_OF_MEMORY", "OutOfMemory"),
    "PENDING|Dependency": JobState("PENDING", "Dependency"),
    "RUNNING|None": JobState("RUNNING"),
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
    assert queue.state("7") == JobState(queue.GONE)
    squeue.write_text("!slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(OSError, match="Unable to contact"):
        queue.state("7")


LOG = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes may have been killed"


def submitted(folder: Path, job: str, log: str = "", code: int | None = None) -> Path:
    found = Submission(job_id=job, log_folder=str(folder / "slurm"), submitted_at="2026-01-01T00:00:00+00:00")
    job_files.write_submission(folder, found)
    (folder / "slurm" / f"{job}_0_log.err").write_text(f"{log}\n")
    if code is not None:
        job_files.write_exit_code(folder, job, 0, code)
    return folder


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ("COMPLETED|None", 0, 0),
        ("FAILED|NonZeroExitCode", 3, 3),
        ("RUNNING|None", None, 0),
        ("NODE_FAIL|None", None, 1),
    ],
)
def test_the_status_of_a_run_is_its_exit_code_once_it_is_over(
    squeue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int | None, expected: int
) -> None:
    squeue.write_text(f"{line}\n")
    run = submitted(tmp_path / "run", "7", "evaluate: 3 of 16\nsubmitit INFO: x", code)
    assert status(run) == expected
    said = capsys.readouterr().out
    assert "output   evaluate: 3 of 16\n" in said
    assert (f"(exit code {expected})" in said) == (line != "RUNNING|None")


def test_the_status_of_a_watch_names_checkpoints_and_what_a_job_waits_for(
    squeue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue.write_text("PENDING|PartitionConfig\n")
    submitted(tmp_path / "w" / "step_100", "7")
    (tmp_path / "w/watch.json").write_text("{}")
    assert status(tmp_path / "w") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("checkpoint step_100: job 7 · PENDING (PartitionConfig) · 0 samples · no node of the")
    assert status(tmp_path / "w/step_100") == 0
    assert "waits    no node of the partition is that large" in capsys.readouterr().out


def test_a_job_that_is_over_is_not_cancelled_again(
    squeue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue.write_text("CANCELLED|None\n")
    assert cancel(submitted(tmp_path / "run", "7")) == 0
    assert capsys.readouterr().err == "slurm: job 7 is over: CANCELLED\n"


def test_the_status_of_a_sweep_has_a_line_for_each_point(
    squeue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue.write_text("RUNNING|None\n")
    for number in (0, 2, 10):
        submitted(tmp_path / "s" / str(number), "7", code=3 if number == 2 else None)
        (tmp_path / "s" / str(number) / ".hydra").mkdir()
        (tmp_path / "s" / str(number) / ".hydra/overrides.yaml").write_text(f"- evaluate.seed={number}\n")
    (tmp_path / "s/multirun.yaml").touch()
    (tmp_path / "s/sweep.json").write_text("the report of an earlier status")
    assert status(tmp_path / "s") == 3
    assert [p["folder"] for p in json.loads((tmp_path / "s/sweep.json").read_text())["points"]] == ["0", "2", "10"]
    assert (tmp_path / "s/sweep.html").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines[:3]] == [f"point {n}: job 7" for n in (0, 2, 10)]
    assert "exit code 3" in lines[1]


@pytest.mark.parametrize(
    ("state", "log", "code"),
    [
        ("OUT_OF_MEMORY|OutOfMemory", "Killed", None),  # the task itself was killed; it left no result.
        ("FAILED|NonZeroExitCode", LOG, None),  # The site watches memory in another way.
        ("OUT_OF_MEMORY|OutOfMemory", "", 1),  # One of its children was killed, so that the run could report it.
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
    run = submitted(tmp_path / "run", "7", log, code)
    squeue.write_text(f"{state}\n")
    monkeypatch.setattr(monitor, "SHARED_FOLDER_DELAY_S", 0.0)
    assert monitor.follow([Job("7", [run])], poll_s=0.01) == {run: 1}
    assert "it had too little memory; set a larger cluster.mem_gb" in capsys.readouterr().err


def test_the_progress_of_several_jobs_is_one_line(squeue: Path, tmp_path: Path) -> None:
    squeue.write_text("RUNNING|None\n")
    runs = [submitted(tmp_path / str(n), str(n // 2), code=0 if n == 0 else None) for n in range(3)]
    (runs[0] / "samples.jsonl").write_bytes(b"".join(to_line(made(f"t/{n}/0")) for n in range(5)))
    watched = [MonitoredJob(Job("0", runs[:2]), shows_log=False), MonitoredJob(Job("1", runs[2:]), shows_log=False)]
    assert not watched[0].poll()
    assert monitor.progress(watched) == "1 RUNNING, 1 unknown · 1 of 3 runs over · 5 samples"
