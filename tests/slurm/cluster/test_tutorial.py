"""The tutorial on a training run works as it is written, on a real SLURM."""

from __future__ import annotations

import json
from pathlib import Path

from tests.checkpoints.training_run import iteration
from tests.slurm.cluster.jobs import Environment
from tests.tutorial import follow


def test_each_checkpoint_gets_a_job_and_a_point_of_the_curve(slurm: Environment, tmp_path: Path) -> None:
    training = tmp_path / "training"
    for step in (100, 200):
        iteration(training, step, tracker=step)
    done = follow("training.md", tmp_path, {"/ckpt/my_model": str(training)}, slurm)
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "watched/watch.json").read_text())["points"]
    assert {point["folder"]: point["status"] for point in points} == {"step_100": "ok", "step_200": "ok"}
    assert (tmp_path / "watched/watch.html").is_file()
    assert "#SBATCH" in done.stdout, "the plan shows the job"
