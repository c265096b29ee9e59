"""``hydra/launcher=submitit_local`` and ``submitit_slurm``: each point is a run, and its failure is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster.jobs import ROOT, Environment, call, left_behind, results, samples, wait_for

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
POINTS = "tasks.addition.path=/nowhere.jsonl,package:launcher/assets/tasks/addition.jsonl"
GIVEN = ("-m", "engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=6", POINTS)


def sweep(environment: Environment, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(environment, sys.executable, str(ROOT / "launch.py"), *GIVEN, *arguments, f"hydra.sweep.dir={folder}")


def check(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    """The point that fails is in the exit code and in the table; the other one is whole."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads((folder / "sweep.json").read_text())
    assert [point["status"] for point in found["points"]] == ["error", "ok"]
    assert "/nowhere.jsonl" in found["points"][0]["reason"]
    assert len(samples(folder / "1")) == 6
    assert (folder / "1/report.html").exists()
    assert len(list(folder.glob(".submitit/*/*_result.pkl"))) == 2
    wait_for(lambda: not left_behind(folder), "the end of the jobs' processes, which have left their results")


def test_submitit_local_runs_each_point_in_a_process_of_its_own(tmp_path: Path) -> None:
    check(tmp_path / "s", sweep(dict(os.environ), tmp_path / "s", "hydra/launcher=submitit_local"))


def test_submitit_slurm_runs_each_point_in_a_job_of_its_own(slurm: Environment, tmp_path: Path) -> None:
    """What a point sees is its job's place, not that of the login node."""
    folder = tmp_path / "s"
    asked = ("hydra.launcher.gpus_per_node=2", "hydra.launcher.timeout_min=5", "hydra.launcher.array_parallelism=1")
    check(folder, sweep(slurm, folder, "hydra/launcher=submitit_slurm", *asked))
    assert results(folder / "1")["run"]["machine"]["gpus"] == 2


def test_what_the_cluster_refuses_is_one_line(slurm: Environment, tmp_path: Path) -> None:
    done = sweep(slurm, tmp_path / "s", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("launcher: sbatch: error: invalid partition specified: nowhere")
    assert "Traceback" not in done.stderr
