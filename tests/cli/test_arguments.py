"""Plans leave no folder, and runs are resumed from folders with any name, for every spelling of the arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.app import launch
from launcher.core.types import resolve

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none", "tasks=[addition]")
AWKWARD = "step=100,epoch=2 [a]"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; this process's arguments are given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments], capture_output=True, text=True, timeout=240, cwd=folder
    )


@pytest.mark.parametrize("asked", ["++mode=plan", "+mode=plan", "mode='plan'", 'mode="plan"'])
def test_a_plan_leaves_no_folder_however_it_is_asked_for(asked: str, place: Path) -> None:
    code = launch([*ECHO, asked])
    assert code == (1 if asked.startswith("+mode") else 0), "Hydra does not add a key that exists"
    assert not list(place.iterdir())


def test_a_plan_of_an_option_file_leaves_no_folder(place: Path) -> None:
    (place / "conf/experiment").mkdir(parents=True)
    (place / "conf/experiment/look.yaml").write_text("# @package _global_\nmode: plan\n")
    assert launch(["--config-dir=conf", "experiment=look", *ECHO]) == 0
    assert launch(["-m", "--config-dir=conf", "experiment=look", *ECHO]) == 1
    assert [path.name for path in place.iterdir()] == ["conf"]


def test_a_plan_of_a_resumed_run_shows_its_settings(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch([*ECHO, "hydra.run.dir=run", "evaluate.limit=3"]) == 0
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert launch(["resume=run", "mode=plan"]) == 0
    assert "\n    limit: 3\n" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before
    assert launch(["resume=nowhere", "mode=plan"]) == 1
    assert "resume=nowhere: not a run folder" in capfd.readouterr().err


def test_checkpoints_that_nemo_names_are_swept_over(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for step in (100, 200):
        (place / f"step={step}").symlink_to(resolve("package:launcher/assets/tiny"))
    assert launch(["-m", "model=checkpoint", "model.path=step=100,step=200", "mode=plan"]) == 0
    shown = capfd.readouterr().out
    assert [f"checkpoint: step={step}\n" in shown for step in (100, 200)] == [True, True]


@pytest.mark.slow
def test_a_run_with_option_files_of_its_own_is_continued_from_anywhere(tmp_path: Path) -> None:
    options = tmp_path / "options"
    (options / "evaluate").mkdir(parents=True)
    (options / "evaluate/few.yaml").write_text("defaults: [default]\nlimit: 3\n")
    done = run(tmp_path, *ECHO, "--config-dir", "options", "evaluate=few", f"hydra.run.dir={AWKWARD}")
    assert done.returncode == 0, done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(elsewhere, f"resume=../{AWKWARD}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / AWKWARD / "results.json").read_text())
    assert found["tasks"]["addition"]["coverage"]["total"] == 3
    assert not list(elsewhere.iterdir())
    options.rename(tmp_path / "moved")
    done = run(elsewhere, f"resume=../{AWKWARD}")
    assert done.returncode == 1
    assert f"its --config-dir {options} is gone" in done.stderr
    assert run(elsewhere, f"resume=../{AWKWARD}", "-cd", "../moved").returncode == 0


@pytest.mark.slow
def test_a_sweep_with_option_files_of_its_own_is_continued(tmp_path: Path) -> None:
    (tmp_path / "options/evaluate").mkdir(parents=True)
    (tmp_path / "options/evaluate/few.yaml").write_text("defaults: [default]\nlimit: 3\n")
    asked = ("-m", *ECHO, "-cd", "options", "evaluate=few", "evaluate.seed=1,2")
    done = run(tmp_path, *asked, "hydra/launcher=shared", f"hydra.sweep.dir={AWKWARD}")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, f"resume={AWKWARD}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 2
