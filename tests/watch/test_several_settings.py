"""A watch over several settings: one server per checkpoint, one page, and what needs another server is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.training_run import ROOT, iteration
from tests.running import SLOW, launch_here, program, wait_for
from tests.watch.test_watch import ECHO, QUICK, call


def several(training: Path, out: Path, *arguments: str) -> list[str]:
    watch = ("-m", "mode=watch", f"watch.folder={training}", *QUICK, f"hydra.sweep.dir={out}", *ECHO)
    return [sys.executable, str(ROOT / "launch.py"), *watch, *arguments]


def found_in(out: Path) -> dict[str, Any]:
    file = out / "watch.json"
    read: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"points": []}
    return read


def statuses(out: Path) -> dict[str, str]:
    return {point["folder"]: point["status"] for point in found_in(out)["points"]}


@pytest.mark.slow
def test_all_settings_are_evaluated_on_one_server_per_checkpoint(tmp_path: Path) -> None:
    """The watch is ended within the first checkpoint, and continued."""
    training, out = tmp_path / "training", tmp_path / "out"
    training.mkdir()
    for step in (100, 200):
        iteration(training, step, tracker=step)
    with program(several(training, out, *SLOW, "evaluate.seed=1,2"), tmp_path) as process:
        begun = out / "step_100/1/samples.jsonl"
        wait_for(lambda: begun.exists() and begun.read_bytes().count(b"\n") >= 2, process, 120)
        process.send_signal(2)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"continue with resume={out}" in said.splitlines()[-1]
    assert statuses(out) == {"step_100/0": "ok", "step_100/1": "interrupted"}

    done = call([sys.executable, str(ROOT / "launch.py"), f"resume={out}", "watch.once=true"], tmp_path)
    assert done.returncode == 0, done.stderr
    runs = [f"step_{step}/{setting}" for step in (100, 200) for setting in (0, 1)]
    assert statuses(out) == dict.fromkeys(runs, "ok")
    assert f"serve: the server of {out / 'step_200/0'} is still up" in done.stderr
    assert f"the server of {out / 'step_100/1'}" not in done.stderr
    found = found_in(out)
    assert [setting["overrides"] for setting in found["settings"]] == [["evaluate.seed=1"], ["evaluate.seed=2"]]
    assert {(item["a"], item["b"]) for item in found["comparisons"]} == {
        ("step_100/0", "step_200/0"),
        ("step_100/1", "step_200/1"),
    }
    assert 'href="step_200/1/report.html"' in (out / "watch.html").read_text()
    assert not (out / "sweep.json").exists()

    other = call(several(training, out, *SLOW, "evaluate.seed=1,3", "watch.once=true"), tmp_path)
    assert other.returncode == 1
    assert "watch.json: this watch evaluates evaluate.seed=1, evaluate.seed=2" in other.stderr
    assert "evaluate.seed=1,2" in (out / "multirun.yaml").read_text(), "it can still be continued"
    assert statuses(out) == dict.fromkeys(runs, "ok")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.name=a,b"], ["model.name=b", "one server per checkpoint", "evaluate.*, tasks, adapters"]),
        (["parallelism.tensor=1,2", "engine=megatron"], ["parallelism.tensor=2", "one server per checkpoint"]),
        (["watch.once=true,false"], ["watch.once=False", "one server per checkpoint"]),
        (["evaluate.seed=0,1", "cluster=local,slurm"], ["cluster=slurm", "one server per checkpoint"]),
        (["evaluate.seed=0,no"], ["evaluate.seed"]),
        (["evaluate.seed=0,1", "hydra.sweep.subdir=x"], ["hydra.sweep.subdir", "two settings"]),
        (["evaluate.seed=0,1", "hydra/launcher=basic"], ["hydra/launcher"]),
    ],
)
def test_what_needs_another_server_is_refused_in_one_line(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ("-m", "mode=watch", f"watch.folder={tmp_path}", "watch.once=true", f"hydra.sweep.dir={out}")
    done = launch_here(tmp_path, *given, "engine=echo", "tasks=[addition]", *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not out.exists()
