"""Faults of a job: its node dies or loses its network, its time ends, or its memory is too small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import SLOW
from tests.slurm.cluster.jobs import (
    SHORT,
    Environment,
    call,
    finished,
    following,
    job_of,
    left_behind,
    local,
    results,
    samples,
    state,
    submit,
    wait_for,
    without,
)


def log(folder: Path) -> str:
    return "".join(file.read_text() for file in (folder / "slurm").glob("*_log.err"))


def host(slurm: Environment, folder: Path) -> str:
    return call(slurm, "squeue", "-h", "-j", job_of(folder), "-o", "%N").stdout.strip()


def check_finished(folder: Path, said: str, kept: list[dict], undisturbed: dict) -> None:
    """No sample was lost, none was asked again that had its answer, and the scores are those of a quiet run."""
    assert results(folder)["tasks"] == undisturbed["tasks"]
    keys = [(s["task"], s["id"]) for s in samples(folder)]
    assert len(keys) == len(set(keys)) == 16
    assert all(sample in samples(folder) for sample in kept if sample["status"] == "scored")
    assert " already done" in said
    assert json.loads((folder / "slurm/outcome.json").read_text())["restarts"] >= 1
    assert not left_behind(folder)


def test_a_run_whose_node_dies_is_finished_on_another_one(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    with following(slurm, folder, *SHORT, *SLOW) as process:
        wait_for(lambda: len(samples(folder)) >= 3, "samples")
        dead = host(slurm, folder)
        with without(slurm, dead, "crash", "start"):
            kept = samples(folder)
            said = finished(slurm, folder, process)
            assert process.returncode == 0, said
            assert json.loads((folder / "session.json").read_text())["host"] != dead
    check_finished(folder, said, kept, local(tmp_path / "here", *SHORT))


@pytest.mark.soak
def test_a_node_that_is_cut_off_and_works_on_does_not_spoil_the_run(slurm: Environment, tmp_path: Path) -> None:
    """It works on for 20 s, and must not be done before the other node has begun."""
    folder = tmp_path / "job"
    with following(slurm, folder, *SHORT, *SLOW, "engine.latency_s=1.5") as process:
        wait_for(lambda: len(samples(folder)) >= 2, "samples")
        cut = host(slurm, folder)
        with without(slurm, cut, "cut", "uncut"):
            down = ("scontrol", "update", f"nodename={cut}", "state=down", "reason=cut")  # SLURM would see it by itself
            assert call(slurm, *down).returncode == 0
            said = finished(slurm, folder, process)
            assert process.returncode == 0, said
    assert "another session took this run over" in said
    check_finished(folder, said, [], local(tmp_path / "here", *SHORT))


@pytest.mark.soak
def test_a_run_whose_time_is_over_is_queued_again_and_finished(slurm: Environment, tmp_path: Path) -> None:
    """SLURM looks at limits every 30 s: it warns 5 to 35 s after the start, and the samples alone take 40 s."""
    folder = tmp_path / "job"
    limit = ("cluster.timeout_min=2", "cluster.signal_delay_s=85", "cluster.requeues=9")
    with following(slurm, folder, *SHORT, *SLOW, "engine.latency_s=2.5", *limit) as process:
        wait_for((folder / "slurm/job.json").exists, "the job")
        wait_for(lambda: "queued again" in log(folder), "the requeue")
        kept = samples(folder)
        said = finished(slurm, folder, process)
    assert process.returncode == 0, said
    assert "out of time; queued again, 1 of 9" in said
    check_finished(folder, said, kept, local(tmp_path / "here", *SHORT))


def test_a_job_without_enough_memory_is_not_queued_again(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    done = submit(slurm, folder, *SHORT, *SLOW, "engine.latency_s=5", "cluster.mem_gb=0.02")
    assert done.returncode == 1
    assert "it had too little memory; set a larger cluster.mem_gb" in done.stderr
    check_not_queued_again(slurm, folder)


def test_a_job_that_fails_is_not_queued_again(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    done = submit(slurm, folder, *SHORT, "tasks.addition.path=/nowhere.jsonl")
    assert done.returncode == 1
    assert json.loads((folder / "slurm/outcome.json").read_text())["restarts"] == 0
    check_not_queued_again(slurm, folder)


def check_not_queued_again(slurm: Environment, folder: Path) -> None:
    said = call(slurm, "scontrol", "show", "job", job_of(folder)).stdout
    assert "Restarts=0" in said
    assert state(slurm, job_of(folder)) in ("OUT_OF_MEMORY", "FAILED")
    assert not left_behind(folder)
