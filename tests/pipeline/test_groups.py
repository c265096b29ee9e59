"""Groups of tasks, from a YAML file to the reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from launcher.report.results import SCHEMA
from tests.running import launch_here

ROOT = Path(__file__).parents[2]
ECHO = ("engine=echo", "model=none")


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "launch.py"), *ECHO, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=240, cwd=folder)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_a_group_of_ones_own_is_one_line_of_every_report(tmp_path: Path) -> None:
    """The user's file chooses tasks and a group of the program, and puts all of them into a group of its own."""
    own = tmp_path / "own" / "tasks"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [numbers, opposites, capitals]\n"
        "groups:\n"
        "  choices: {members: [opposites, capitals], weight: equal}\n"
    )
    done = launch(tmp_path, "--config-dir=own", "tasks=[mine]", "evaluate.limit=6", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    tasks, groups = found["tasks"], found["groups"]
    assert set(groups) == {"numbers", "choices"}
    mean = (tasks["opposites"]["metrics"]["acc"]["value"] + tasks["capitals"]["metrics"]["acc"]["value"]) / 2
    assert abs(groups["choices"]["metrics"]["acc"]["value"] - mean) < 1e-9
    assert groups["choices"]["coverage"]["scored"] == 12
    table = done.stdout[done.stdout.index("task") : done.stdout.index("checks")]
    assert "choices" in table
    assert "numbers" in table
    assert "capitals" not in table
    assert "2 members, listed in the report" in table
    assert "capitals" in (tmp_path / "run" / "report.html").read_text()


def test_a_group_may_be_an_objective_and_is_part_of_the_plan(tmp_path: Path) -> None:
    planned = launch_here(tmp_path, *ECHO, "tasks=[numbers]", "objective=numbers.exact_match", "mode=plan")
    assert planned.returncode == 0, planned.stderr
    assert "numbers: addition, sequences" in planned.stdout


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("groups.numbers.members=[addition,x]", "groups.numbers.members: there is no task or group 'x'"),
        ("groups.numbers.weight=heavy", "groups.numbers.weight: "),
        ("+groups.mine.members=[addition]", "a new Group needs an option file"),
        ("objective=number.exact_match", "one of addition, sequences, numbers"),
    ],
)
def test_a_wrong_group_ends_in_one_line(tmp_path: Path, argument: str, words: str) -> None:
    done = launch_here(tmp_path, *ECHO, "tasks=[numbers]", argument, "mode=plan")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
