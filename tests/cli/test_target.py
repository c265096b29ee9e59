"""``launcher eval|serve|check TARGET``: the settings that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from launcher.cli import commands
from launcher.report import results
from tests.running import launch_here


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["eval", "tiny"], ["mode=run", "model=tiny"]),
        (["eval", "/ckpt/step=100"], ["mode=run", "model=checkpoint", "model.path='/ckpt/step=100'"]),
        (
            ["eval", "http://127.0.0.1:8000", "--tasks", "addition,capitals"],
            ["mode=run", "backend=external", "backend.url=http://127.0.0.1:8000/v1", "tasks=[addition,capitals]"],
        ),
        (
            ["check", "HTTPS://host/prefix/v1", "validate.timeout_s=5"],
            [
                "mode=validate",
                "backend=external",
                "backend.url=HTTPS://host/prefix/v1",
                "tasks=[]",
                "validate.timeout_s=5",
            ],
        ),
        (["serve", "tiny", "backend.port=8000"], ["mode=serve", "model=tiny", "tasks=[]", "backend.port=8000"]),
        (
            ["eval", "evaluate.seed=1,2", "tiny", "-m", "--config-dir", "my conf"],
            ["--config-dir", "my conf", "--multirun", "mode=run", "model=tiny", "evaluate.seed=1,2"],
        ),
    ],
)
def test_a_target_becomes_settings(words: list[str], settings: list[str]) -> None:
    found = commands.run(words[0], words[1:])
    assert isinstance(found, list)
    assert found[: len(settings)] == settings


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["eval"], "eval: the following arguments are required: TARGET"),
        (
            ["eval", "--tasks", "addition", "tasks.addition.limit=5"],
            "eval: TARGET is missing beside the setting tasks.",
        ),
        (["serve", ""], "serve: TARGET is empty; expected a server's URL, a checkpoint's path, or a model's option"),
        (["check", "nowhere"], "nowhere: no such file or folder"),
        (["eval", "tiny", "--tusks", "a"], "eval: unrecognized arguments: --tusks"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    done = launch_here(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"launcher: {line}")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["eval", "tiny", "mode=serve", "--plan"], "eval: mode=serve contradicts --plan"),
        (["eval", "tiny", "--plan", "mode=run"], "eval: mode=run contradicts --plan"),
        (["serve", "tiny", "--plan", "mode=run", "tasks=[addition]"], "serve: mode=run contradicts --plan"),
        (["serve", "mode=serve", "tiny", "--plan"], "serve: mode=serve contradicts --plan"),
        (["check", "tiny", "--plan", "+mode=validate"], "check: +mode=validate contradicts --plan"),
        (["convert", "tiny", "x", "mode=convert", "--plan"], "convert: mode=convert contradicts --plan"),
        (["score", "run", "--plan", "mode=score"], "score: mode=score: expected no mode, or mode=plan"),
        (["eval", "tiny", "mode=serve"], "eval: mode=serve contradicts the command, which is mode=run"),
        (["eval", "tiny", "--tasks", "addition", "tasks=[capitals]"], "eval: tasks=[capitals] contradicts --tasks"),
        (["eval", "tasks=[capitals]", "tiny", "--tasks", "addition"], "eval: tasks=[capitals] contradicts --tasks"),
        (["eval", "tiny", "-m", "--tasks", "a", "tasks=[b],[c]"], "eval: tasks=[b],[c] contradicts --tasks"),
        (["eval", "tiny", "model=none"], "eval: model=none contradicts the target tiny"),
        (["eval", "/ckpt", "model.path=/other"], "eval: model.path=/other contradicts the target /ckpt"),
        (["eval", "http://a", "backend.url=http://b/v1"], "eval: backend.url=http://b/v1 contradicts the target http"),
        (["eval", "tiny", "--out", "a", "hydra.run.dir=b"], "eval: hydra.run.dir=b contradicts --out"),
        (["eval", "tiny", "-m", "--out", "a", "hydra.sweep.dir=b"], "eval: hydra.sweep.dir=b contradicts --out"),
        (["eval", "tiny", "--out", "a", "resume=b"], "eval: resume=b contradicts --out"),
        (["eval", "tiny", "--out", "a", "--out", "b"], "eval: --out is given twice, with a and b"),
        (["score", "run", "run=other"], "score: run=other contradicts RUN"),
        (["convert", "tiny", "x", "convert.path=y"], "convert: convert.path=y contradicts FOLDER"),
        (["score", "run", "--out", "x", "hydra.run.dir=y"], "score: hydra.run.dir=y contradicts --out"),
        (["eval", "tiny", "--tasks", ","], "--tasks ,: there is no name in it"),
        (["check", "tiny", "--tasks", "[]"], "--tasks []: there is no name in it"),
    ],
)
def test_a_setting_that_contradicts_a_command_is_refused(words, line, capsys) -> None:
    """Hydra would let one of the two win without a word."""
    assert commands.run(words[0], words[1:]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"launcher: {line}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "tiny", "mode=plan", "--plan", "model=tiny"],
        ["eval", "tiny", "mode=run", "--tasks", "addition", "tasks=addition"],
        ["eval", "tiny", "-m", "--tasks", "addition", "tasks=[addition],[capitals]", "model=tiny,none"],
        ["eval", "http://a", "backend.url='http://a/v1'", "--out", "x", "hydra.run.dir=x/"],
        ["serve", "tiny", "mode=plan"],
        ["convert", "tiny", "x", "mode=plan", "convert.path=x"],
        ["score", "run", "--plan", "mode=plan"],
    ],
)
def test_a_setting_that_says_the_same_is_no_contradiction(words) -> None:
    assert isinstance(commands.run(words[0], words[1:]), list)


def test_check_leaves_the_load_test_out_when_told_so() -> None:
    assert commands.run("check", ["tiny", "load.test=false"]) == [
        *("mode=validate", "model=tiny", "tasks=[]", "load.test=false")
    ]


def test_a_command_runs_what_it_stands_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["eval", "none", "--tasks", "addition", "engine=echo", "evaluate.limit=2", f"hydra.run.dir={folder}"]
    assert launch_here(tmp_path, *words).returncode == 0
    found = json.loads((folder / "results.json").read_text())
    assert list(found["run"]["config"]["tasks"]) == ["addition"]
    assert found["endpoint"]["engine"] == "echo"


def test_check_measures_the_speed_too(tmp_path: Path) -> None:
    small = ["load.in_flight=[1,2]", "load.seconds=0.3", "load.prompt_tokens=8", "load.max_tokens=4"]
    done = launch_here(tmp_path, "check", "none", "engine=echo", *small, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/results.json").read_text())["load"]
    assert found == json.loads((tmp_path / "run/load.json").read_text())
    assert [level["in_flight"] for level in found["levels"]][:1] == [1]
    assert found["levels"][0]["requests"] > 0
    assert found["levels"][0]["failed"] == 0
    assert found["levels"][0]["tokens_per_answer"] == found["max_tokens"] == 4, "ignore_eos holds"
    jsonschema.validate(json.loads((tmp_path / "run/results.json").read_text()), json.loads(results.SCHEMA.read_text()))
    assert "load test of /v1/completions" in done.stdout
    assert "Load test</h2>" in (tmp_path / "run/report.html").read_text()


def test_a_failed_certificate_leaves_the_load_test_out_and_says_so(tmp_path: Path) -> None:
    settings = ["engine=echo", "validate.timeout_s=0.000000001", "hydra.run.dir=run"]
    done = launch_here(tmp_path, "check", "none", *settings)
    assert done.returncode == 2
    line = "left out, because the endpoint failed its certificate"
    assert f"load: {line}" in done.stderr
    assert f"load test {line}" in " ".join(done.stdout.split())
    assert not (tmp_path / "run/load.json").exists()
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert found["load_left_out"].startswith(line)
    jsonschema.validate(found, json.loads(results.SCHEMA.read_text()))
    assert f"{line.capitalize()}; validate.skip" in (tmp_path / "run/report.html").read_text()
