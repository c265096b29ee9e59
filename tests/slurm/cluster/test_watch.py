"""A watch that submits a job of a real SLURM for each checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.checkpoints.training_run import iteration
from tests.running import SLOW, program
from tests.slurm.cluster.jobs import ROOT, Environment, call, following, job_of, left_behind, samples, state, wait_for


def statuses(folder: Path) -> dict[str, str]:
    found = json.loads((folder / "watch.json").read_text())["points"]
    return {point["folder"]: point["status"] for point in found}


@pytest.mark.soak  # the other test takes the same way
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


def test_the_job_of_a_checkpoint_evaluates_all_settings_on_one_server(slurm: Environment, tmp_path: Path) -> None:
    training, folder = tmp_path / "training", tmp_path / "watch"
    for step in (100, 200):
        iteration(training, step, tracker=step)
    watch = ("-m", "mode=watch", f"watch.folder={training}", "watch.poll_s=0.2", "watch.jobs=1", "cluster.poll_s=0.2")
    given = ("cluster=slurm", "engine=echo", "tasks=[addition]", "evaluate.limit=6", *SLOW, "evaluate.seed=1,2")
    begin = [sys.executable, str(ROOT / "launch.py"), *watch, *given, f"hydra.sweep.dir={folder}"]
    with program(begin, Path("/tmp"), slurm) as process:
        wait_for(lambda: len(samples(folder / "step_100/1")) >= 2, "samples of the second setting")
        process.send_signal(2)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert statuses(folder) == {"step_100/0": "ok", "step_100/1": "interrupted"}
    assert state(slurm, job_of(folder / "step_100/0")) == "CANCELLED"
    assert not left_behind(folder)

    done = call(slurm, sys.executable, str(ROOT / "launch.py"), f"resume={folder}", "watch.once=true")
    assert done.returncode == 0, done.stderr
    assert statuses(folder) == {f"step_{step}/{setting}": "ok" for step in (100, 200) for setting in (0, 1)}
    jobs = {name: job_of(folder / name) for name in statuses(folder)}
    assert jobs["step_200/0"] == jobs["step_200/1"]
    assert jobs["step_100/0"] != jobs["step_100/1"], "only what was not over is evaluated again"
    servers = {name: (folder / name / "server.log").resolve() for name in ("step_200/0", "step_200/1")}
    assert servers["step_200/0"] == servers["step_200/1"]
    assert not left_behind(folder)
