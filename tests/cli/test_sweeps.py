"""Sweeps as they are typed: points share servers, fail alone, are interrupted, and are continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import UNVALIDATED, program, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
ECHO = ("engine=echo", "model=none", "evaluate.limit=6")
FILES = (
    "results.json",
    "samples.jsonl",
    "certificate.json",
    "health.jsonl",
    "server.log",
    "report.html",
    "journal.json",
)


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *arguments, f"hydra.sweep.dir={folder}"]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, "-m", *arguments), capture_output=True, text=True, timeout=120, cwd=folder.parent
    )


def summary(folder: Path) -> dict[str, Any]:
    loaded = json.loads((folder / "sweep.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def starts(folder: Path) -> list[tuple[int, list[str]]]:
    return [(found["starts"], found["points"]) for found in summary(folder)["deployments"]]


def statuses(folder: Path) -> list[str]:
    return [point["status"] for point in summary(folder)["points"]]


def scores(folder: Path) -> list[Any]:
    return [point["tasks"] for point in summary(folder)["points"]]


def urls(folder: Path) -> list[str]:
    return [json.loads((folder / str(n) / "results.json").read_text())["endpoint"]["url"] for n in range(6)]


def test_six_points_share_two_servers_and_score_as_if_each_had_its_own(tmp_path: Path) -> None:
    given = (*ECHO, "tasks=[addition],[capitals],[sequences]", "model.name=a,b")
    together, alone = tmp_path / "together", tmp_path / "alone"
    done = sweep(together, *given)
    assert done.returncode == 0, done.stderr
    assert statuses(together) == ["ok"] * 6
    assert starts(together) == [(1, ["0", "2", "4"]), (1, ["1", "3", "5"])]
    assert len(set(urls(together))) == 2
    for n in range(6):
        for file in FILES:
            assert (together / str(n) / file).exists(), f"{n}/{file}"
        assert not (together / str(n) / "endpoint.json").exists()
    done = sweep(alone, *given, "hydra/launcher=basic")
    assert done.returncode == 0, done.stderr
    assert starts(alone) == [(3, ["0", "2", "4"]), (3, ["1", "3", "5"])]
    assert scores(together) == scores(alone)


def resume(folder: Path) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, str(ROOT / "launch.py"), f"resume={folder}"]
    return subprocess.run(given, capture_output=True, text=True, timeout=120, cwd=folder.parent)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'plugins'}:{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.usefixtures("plugins")
def test_a_sweeper_chooses_its_points_by_the_results_of_others(tmp_path: Path) -> None:
    """Numbers go on, the server of the batch before is used first, and the sweep is continued as any other."""
    folder = tmp_path / "s"
    given = (*ECHO, "tasks=[addition,capitals]", "hydra/sweeper=telling")
    done = sweep(folder, *given, "objective=capitals.acc")
    assert done.returncode == 0, done.stderr
    assert starts(folder) == [(2, ["0", "2"]), (1, ["1", "3"])]
    told = [round(1000 * tasks["capitals"]["metrics"]["acc"]["value"]) for tasks in scores(folder)]
    points = summary(folder)["points"]
    assert [point["overrides"][-1] for point in points[2:]] == [f"evaluate.seed={value}" for value in told[:2]]
    (folder / "3/results.json").unlink()
    (folder / "sweep.json").unlink()
    done = resume(folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 3
    assert [point["overrides"] for point in summary(folder)["points"]] == [point["overrides"] for point in points]


@pytest.mark.usefixtures("plugins")
def test_a_metric_that_does_not_exist_ends_a_sweep_before_its_first_point_is_asked(tmp_path: Path) -> None:
    given = (*ECHO, "tasks=[addition]", "hydra/sweeper=telling", "objective=addition.acc")
    done = sweep(tmp_path / "s", *given)
    assert done.returncode == 1
    said = "launcher: objective=addition.acc: no such metric; expected one of addition.exact_match"
    assert done.stderr.splitlines()[1:] == [said], "the first line is the point's"
    assert not list((tmp_path / "s").glob("*/results.json"))


@pytest.mark.usefixtures("plugins")
def test_a_sweep_of_which_every_point_is_refused_ends_in_one_line(tmp_path: Path) -> None:
    given = (*ECHO, "tasks=[addition]", "hydra/sweeper=telling", "validate.skip=[nope]")
    done = sweep(tmp_path / "s", *given)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("launcher: no point of the sweep has a value for its sweeper")


def test_the_list_sweeper_pairs_its_values(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.list_sweeper_plugin")
    lists = "+hydra.sweeper.list_params={evaluate.seed:[1,2,3],model.name:[a,b,a]}"
    done = sweep(tmp_path / "s", *ECHO, "tasks=[addition]", "hydra/sweeper=list", lists)
    assert done.returncode == 0, done.stderr
    assert starts(tmp_path / "s") == [(1, ["0", "2"]), (1, ["1"])]


OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1")


def test_optuna_goes_on_with_what_it_was_told(tmp_path: Path) -> None:
    """A study of which two trials are missing ends as it did at first; another seed would ask for others."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    folder = tmp_path / "s"
    given = (*ECHO, "tasks=[capitals]", *OPTUNA)
    done = sweep(folder, *given, "evaluate.temperature=interval(0.0,0.2)", "model.name=a,b")
    assert done.returncode == 0, done.stderr
    best, before = (folder / "optimization_results.yaml").read_text(), scores(folder)
    assert "best_value" in best
    for number in (1, 3):
        (folder / str(number) / "results.json").unlink()
    done = resume(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "optimization_results.yaml").read_text() == best
    assert scores(folder) == before
    done = sweep(folder, f"resume={folder}", "hydra.sweeper.sampler.seed=2")
    assert done.returncode == 1
    assert "the sweeper now asks for" in done.stderr.splitlines()[-1]


def test_points_that_need_another_certificate_get_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    done = sweep(folder, *ECHO, "tasks=[addition],[capitals]")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((folder / n / "certificate.json").read_text()) for n in "01")
    assert first["checks"] != second["checks"]


def test_a_missing_checkpoint_fails_its_points_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    given = ("engine=echo", "evaluate.limit=6", "model.path=/nowhere,''", "model=none", "tasks=[addition],[capitals]")
    done = sweep(folder, *given)
    assert done.returncode == 1
    assert statuses(folder) == ["error", "error", "ok", "ok"], done.stderr
    assert "Traceback" not in done.stderr
    assert summary(folder)["points"][0]["reason"].startswith("/nowhere: ")


def test_a_server_that_does_not_start_is_tried_once(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    done = sweep(folder, *ECHO, "backend.host=127.0.0.1,203.0.113.7", "tasks=[addition],[capitals]")
    assert done.returncode == 1
    points = summary(folder)["points"]
    assert [p["status"] for p in points] == ["ok", "ok", "error", "error"]
    assert points[2]["reason"] == points[3]["reason"]
    assert "203.0.113.7" in points[2]["reason"]
    assert [found["starts"] for found in summary(folder)["deployments"]] == [1, 0]


def test_the_worst_exit_code_is_the_sweeps_and_a_refused_point_says_why(tmp_path: Path) -> None:
    given = (*ECHO, "tasks=[addition]", "engine.latency_s=0.3", "adapters=[]", "evaluate.timeout_s=0.05,60")
    done = sweep(tmp_path / "s", *given, "evaluate.concurrency=4,0")
    assert done.returncode == 3, done.stderr
    assert statuses(tmp_path / "s") == ["incomplete", "error", "ok", "error"]
    assert "evaluate.concurrency is 0" in summary(tmp_path / "s")["points"][1]["reason"]


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_an_interrupted_sweep_reports_what_is_done_and_runs_only_what_is_missing(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "s"
    slow = ("engine=echo", "model=none", "engine.latency_s=0.2", "evaluate.concurrency=2", "evaluate.limit=20")
    given = (*slow, "tasks=[addition]", "evaluate.seed=1,2,3", UNVALIDATED)
    with program(command(folder, "-m", *given), tmp_path) as process:
        wait_for(lambda: lines(folder / "1/samples.jsonl") >= 3, process, 60)
        assert (folder / "1/endpoint.json").exists()
        assert not (folder / "0/endpoint.json").exists()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"resume={folder}" in said
    assert statuses(folder) == ["ok", "interrupted"]
    assert not (folder / "1/endpoint.json").exists()
    kept, before = (folder / "1/samples.jsonl").read_text(), (folder / "0/samples.jsonl").stat().st_mtime_ns

    done = resume(folder)
    assert done.returncode == 0, done.stderr
    assert statuses(folder) == ["ok"] * 3
    assert "point 0: " in done.stderr
    assert "done before" in done.stderr
    assert (folder / "0/samples.jsonl").stat().st_mtime_ns == before
    assert [lines(folder / str(n) / "samples.jsonl") for n in range(3)] == [20, 20, 20]
    after = (folder / "1/samples.jsonl").read_text().splitlines()
    assert {line for line in kept.splitlines() if '"scored"' in line} <= set(after)
    assert all(not override.startswith("resume") for p in summary(folder)["points"] for override in p["overrides"])


def test_a_sweep_is_not_continued_as_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    assert sweep(folder, *ECHO, "tasks=[addition]", "evaluate.seed=1,2").returncode == 0
    done = sweep(folder, f"resume={folder}", "evaluate.limit=3")
    assert done.returncode == 1
    assert "evaluate.limit=3" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_point_whose_folder_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    names = f"model.name=a,{'x' * 300},b"
    done = sweep(tmp_path / "s", *ECHO, "tasks=[addition]", names, "hydra.sweep.subdir=${hydra.job.override_dirname}")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("launcher: ")]
    assert line.startswith("launcher: point 1: ")
    assert line.endswith("cannot be made: File name too long; set hydra.sweep.subdir to another name")
    assert statuses(tmp_path / "s") == ["ok", "ok"]
