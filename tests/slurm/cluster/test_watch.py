"""A watch that submits a job of a real SLURM for each checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.checkpoints.training_run import iteration
from tests.running import SLOW
from tests.slurm.cluster.jobs import ROOT, Environment, call, following, job_of, left_behind, samples, state, wait_for


def statuses(folder: Path) -> dict[str, str]:
    found = json.loads((folder / "watch.json").read_text())["points"]
    return {point["folder"]: point["status"] for point in found}


def test_each_checkpoint_is_a_job_and_an_interrupted_watch_continues_them(slurm: Environment, tmp_path: Path) -> None:
    training, folder = tmp_path / "training", tmp_path / "watch"
    for step in (100, 200):
        iteration(training, step, tracker=step)
    watch = ("mode=watch", f"watch.folder={training}", "watch.poll_s=0.2", "watch.jobs=1")
    given = ("engine=echo", "tasks=[addition]", "evaluate.limit=8", *SLOW)
    with following(slurm, folder, *watch, *given) as process:
        wait_for(lambda: len(samples(folder / "step_100")) >= 2, "samples")
        process.send_signal(2)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert statuses(folder) == {"step_100": "interrupted"}
    assert state(slurm, job_of(folder / "step_100")) == "CANCELLED"
    assert not left_behind(folder)
    kept = [sample for sample in samples(folder / "step_100") if sample["status"] == "scored"]

    done = call(slurm, sys.executable, str(ROOT / "launch.py"), f"resume={folder}", "watch.once=true")
    assert done.returncode == 0, done.stderr
    assert statuses(folder) == {"step_100": "ok", "step_200": "ok"}
    assert all(sample in samples(folder / "step_100") for sample in kept)
    assert not left_behind(folder)
