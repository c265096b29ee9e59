"""Runs that Python submits to a real SLURM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.slurm.cluster.jobs import ROOT, Environment, call

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import launcher

words = "engine=echo", "model=none", "tasks=[addition]", "evaluate.limit=4", "cluster.poll_s=0.2", "cluster=slurm"
run = launcher.run(*words, "hydra.run.dir=run", quiet=True)
print(run.status, len(run.records))
sweep = launcher.sweep(*words, "evaluate.seed=1,2", "hydra.sweep.dir=sweep", quiet=True)
print([each.status for each in sweep])
try:
    launcher.run(*words[:4], "hydra/launcher=submitit_slurm", "hydra.run.dir=other", quiet=True)
except launcher.LauncherError as error:
    print(error)
"""


@pytest.mark.soak
def test_a_run_and_a_sweep_are_jobs(slurm: Environment, tmp_path: Path) -> None:
    code = f"import os; os.chdir({str(tmp_path)!r})" + SCRIPT.format(root=str(ROOT))
    done = call(slurm, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ok 4", "['ok', 'ok']"]
    assert lines[2].startswith("hydra/launcher=submitit_slurm: it submits the points of sweeps; add -m")
