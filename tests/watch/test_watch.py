"""A training run is watched: checkpoints come, vanish, are damaged; the watch is ended and continued."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import train_tiny

from launcher.checkpoints.iterations import TRACKER
from launcher.checkpoints.torch_dist.writer import save
from launcher.engines.megatron.build import build
from launcher.engines.megatron.distributed import initialize
from launcher.settings.model import Parallelism
from tests.checkpoints.training_run import ROOT, hugging_face, iteration, nemo
from tests.running import SLOW, launch_here, program, wait_for

QUICK = ("watch.poll_s=0.2", "watch.settle_s=0.4")
ECHO = ("engine=echo", "tasks=[addition]", "evaluate.limit=6")


def command(training: Path, out: Path, *arguments: str) -> list[str]:
    watch = ("mode=watch", f"watch.folder={training}", *QUICK, f"hydra.run.dir={out}")
    return [sys.executable, str(ROOT / "launch.py"), *watch, *arguments]


def call(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=240, cwd=cwd)


def points(out: Path) -> dict[str, dict[str, Any]]:
    file = out / "watch.json"
    found = json.loads(file.read_text())["points"] if file.exists() else []
    return {point["folder"]: point for point in found}


def statuses(out: Path) -> dict[str, str]:
    return {name: point["status"] for name, point in points(out).items()}


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder with a name that Hydra's grammar would take apart."""
    (tmp_path / "lr=1e-4,bf16 [a]").mkdir()
    return tmp_path / "lr=1e-4,bf16 [a]"


@pytest.mark.slow
def test_checkpoints_are_evaluated_as_they_come_and_lost_ones_are_missed(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    iteration(training, 100, tracker=100)
    with program(command(training, out, *ECHO, *SLOW, "watch.until=500"), tmp_path) as process:
        wait_for(lambda: statuses(out) == {"step_100": "evaluating"}, process, 120)
        second = iteration(training, 200, tracker=200)
        wait_for(lambda: "step_200" in statuses(out), process, 120)
        third, bad = iteration(training, 300, tracker=300), iteration(training, 400, tracker=400)
        (bad / "metadata.json").unlink()
        time.sleep(1.2)  # some looks, of which nothing can be seen, and less than an evaluation takes
        shutil.rmtree(third)
        wait_for(lambda: statuses(out).get("step_400") == "error", process, 120)
        shutil.copy(second / "metadata.json", bad)  # written again
        wait_for(lambda: statuses(out).get("step_400") == "ok", process, 120)
        iteration(training, 500, tracker=500)
        said = process.communicate(timeout=120)
    assert statuses(out) == {f"step_{n}00": "missed" if n == 3 else "ok" for n in (1, 2, 3, 4, 5)}, said
    assert points(out)["step_300"]["reason"] == "it was removed before it was evaluated"
    assert (points(out)["step_400"]["tries"], process.returncode) == (2, 0)
    assert "metadata.json: missing" in said[1]
    assert "Traceback" not in said[1]
    page = (out / "watch.html").read_text()
    assert 'href="step_500/report.html"' in page
    assert "it was removed before it was evaluated" in page
    assert 'http-equiv="refresh"' not in page


@pytest.mark.slow
def test_an_ended_watch_goes_on_where_it_was(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for step in (100, 200, 300):
        iteration(training, step, tracker=step)
    with program(command(training, out, *ECHO, *SLOW), tmp_path) as process:
        begun = out / "step_200/samples.jsonl"
        wait_for(lambda: begun.exists() and begun.read_bytes().count(b"\n") >= 2, process, 120)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"continue with resume={out}" in said.splitlines()[-1]
    assert statuses(out) == {"step_100": "ok", "step_200": "interrupted"}
    kept, before = begun.read_text(), (out / "step_100/samples.jsonl").stat().st_mtime_ns

    done = call([sys.executable, str(ROOT / "launch.py"), f"resume={out}", "watch.once=true"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(out) == dict.fromkeys(("step_100", "step_200", "step_300"), "ok")
    assert (out / "step_100/samples.jsonl").stat().st_mtime_ns == before
    assert {line for line in kept.splitlines() if '"scored"' in line} <= set(begun.read_text().splitlines())
    again = call(command(training, out, *ECHO, *SLOW, "watch.once=true"), tmp_path)  # the same command
    assert again.returncode == 0
    assert "serve:" not in again.stderr


@pytest.mark.slow
def test_once_evaluates_what_is_complete_and_says_what_is_not(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "out=1,b"
    nemo(training, "gpt--val_loss=1.00-step=7-consumed_samples=9.0-last")
    hugging_face(training / "final")
    hugging_face(training / "checkpoint-10")
    hugging_face(training / "checkpoint-20", shards=1)
    done = call(command(training, out, *ECHO, "watch.once=true", "watch.order=newest"), tmp_path)
    assert done.returncode == 1
    assert statuses(out) == {"final": "ok", "step_10": "ok", "step_20": "error"}
    first = next(line for line in done.stderr.splitlines() if line.startswith("watch: step_"))
    assert first.startswith("watch: step_10")  # newest first
    assert "not evaluated, it is not complete: gpt--val_loss=1.00-step=7" in done.stderr
    assert "Without a step in their names" in (out / "watch.html").read_text()
    point = call([sys.executable, str(ROOT / "launch.py"), f"resume={out / 'step_10'}"], tmp_path)  # a run like others
    assert point.returncode == 0, point.stderr


@pytest.mark.slow
def test_the_curve_of_a_training_run_rises(training: Path, tmp_path: Path) -> None:
    """The untrained model against the shipped one, in the format of its own trainer."""
    out, folder = tmp_path / "out", training / "iter_0000001"
    initialize(Parallelism(), torch.device("cpu"))
    torch.manual_seed(1)
    save(build(train_tiny.ARCHITECTURE, Parallelism(), torch.float32, torch.device("cpu")), folder, torch.bfloat16)
    train_tiny.write_tokenizer(folder / "tokenizer")
    train_tiny.write_config(folder, seed=1, steps=1)
    iteration(training, 800, tracker=800)
    done = call(command(training, out, "tasks=[capitals]", "watch.until=800"), tmp_path)
    assert done.returncode == 0, done.stderr
    comparison = json.loads((out / "watch.json").read_text())["comparisons"][0]
    assert (comparison["a"], comparison["b"], comparison["against"]) == ("step_1", "step_800", ["previous", "best"])
    assert comparison["difference"] > 0.2
    assert comparison["p_holm"] < 0.05
    assert 'class="value better"' in (out / "watch.html").read_text()
    assert "a significant change against the checkpoint before" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mode=watch"], ["watch.folder", "mode=watch needs the folder"]),
        (["mode=watch", "watch.folder=/nowhere"], ["watch.folder=/nowhere", "no folder"]),
        (["mode=watch", "watch.folder=.", "model.path=/x"], ["model.path=/x", "watch.folder"]),
        (["mode=watch", "watch.folder=.", "watch.poll_s=0"], ["watch.poll_s is 0.0; must be above 0"]),
        (
            ["mode=watch", "watch.folder=.", "backend=external", "backend.url=http://127.0.0.1:9/v1", "engine=none"],
            ["backend=external", "mode=watch"],
        ),
        (["watch.folder=."], ["watch.folder=.", "only mode=watch"]),
        (["-m", "mode=watch", "watch.folder=."], ["mode=watch", "leave out -m"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = launch_here(tmp_path, *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("point 0:")]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.slow
def test_a_tracker_that_is_behind_is_waited_for(training: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    iteration(training, 100, tracker=100)
    iteration(training, 200)
    with program(command(training, out, *ECHO, "watch.until=200"), tmp_path) as process:
        wait_for(lambda: statuses(out) == {"step_100": "ok"}, process, 120)
        (training / TRACKER).write_text("200")
        process.communicate(timeout=120)
    assert statuses(out) == {"step_100": "ok", "step_200": "ok"}
