"""One model over two nodes in one job: its scores are those of a local run, and its processes end together."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster.jobs import (
    Environment,
    call,
    following,
    job_of,
    left_behind,
    local,
    results,
    samples,
    state,
    wait_for,
    without,
)

pytest.importorskip("megatron.core")
FEW = ("tasks=[addition,capitals]", "evaluate.limit=6")
SPREAD = ("cluster.nodes=2", "parallelism.tensor=2", "parallelism.pipeline=2")
STAGES = ("cluster.nodes=2", "parallelism.pipeline=2", "cluster.requeues=0")
LONG = ("tasks=[addition]", "evaluate.concurrency=1", "evaluate.repeats=500")


@pytest.mark.slow
def test_a_model_over_two_nodes_behind_triton_scores_as_here(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    with following(slurm, folder, *FEW, *SPREAD, "backend=pytriton") as process:
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert results(folder)["tasks"] == local(tmp_path / "here", *FEW)["tasks"]
    assert results(folder)["engine"]["world_size"] == 4
    assert results(folder)["endpoint"]["backend"] == "pytriton"
    assert not left_behind(folder)


@contextmanager
def running(slurm: Environment, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run something long over two nodes; yield when the first samples are there."""
    with following(slurm, folder, *STAGES, *LONG) as process:
        wait_for(lambda: len(samples(folder)) >= 3 or process.poll() is not None, "samples")
        assert process.poll() is None, process.communicate()
        yield process


@pytest.mark.slow
def test_cancelling_ends_both_nodes_in_order(slurm: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    with running(slurm, folder) as process:
        assert call(slurm, "scancel", job_of(folder)).returncode == 0
        process.communicate(timeout=90)
    assert state(slurm, job_of(folder)) == "CANCELLED"
    assert results(folder)["status"] == "interrupted"
    assert not (folder / "endpoint.json").exists()
    assert not left_behind(folder)


@pytest.mark.soak
def test_a_node_that_goes_silent_ends_the_run(slurm: Environment, tmp_path: Path) -> None:
    """Nothing closes a connection here: only that the other host does not answer shows that it is gone."""
    folder, silent = tmp_path / "job", f"{slurm['NODE_PREFIX']}2"
    with running(slurm, folder) as process, without(slurm, silent, "cut", "uncut"):
        try:
            wait_for(lambda: (folder / "results.json").exists(), "the end of the run")
        finally:
            call(slurm, "scancel", job_of(folder))
        process.communicate(timeout=90)
    assert results(folder)["status"] in ("incomplete", "interrupted")  # SLURM may be faster in ending the job
    said = (folder / "samples.jsonl").read_text() + (folder / "health.jsonl").read_text()
    assert f"on {silent}) " in said, "the rank is named"
    wait_for(lambda: not left_behind(folder), "the end of all processes")
