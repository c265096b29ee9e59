"""``launcher tasks``: every option is listed, with what its file says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from launcher.cli import commands
from launcher.cli.catalogue import options
from launcher.cli.options import options_of
from launcher.core.files import conf_folder
from launcher.tasks.lm_eval import index

OPTIONS = {option.name: option for option in options(conf_folder() / "tasks")}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_file_says_what_it_measures_and_where_its_items_are_from(name: str) -> None:
    option = OPTIONS[name]
    assert option.about, "the first comment says what the task measures"
    if not option.is_demonstration:
        assert option.notes, "a note says what it equals, or that it is ours"
        assert option.licence or name.endswith("_chat") or option.kind == "harness"
        assert option.missing == "", "the tests have every data package"


def test_the_list_has_every_option_and_the_demonstrations_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("tasks", []) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for name in options_of("tasks"):
        assert re.search(rf"^  {name}\b", shown, re.M), name
    real, demonstrations = shown.split("Demonstrations")
    assert "  gsm8k " in real
    assert "  addition " in demonstrations
    assert f"lm-evaluation-harness {index.version()}: 1" in shown


def test_one_is_explained_with_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("tasks", ["gsm8k_cot"]) == 0
    shown = capsys.readouterr().out
    assert "Equals lm-evaluation-harness" in shown
    assert "  fewshot: 8\n" in shown
    assert "MIT" in shown


def test_words_search_names_and_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("tasks", ["--json", "over", "chat", "gsm8k"]) == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)] == ["gsm8k_chat"]


def test_options_of_a_folder_of_ones_own_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks").mkdir()
    comments = "# @package tasks.mine\n# Mine (7 items): odd.\n# Data: a file of mine (none)\n"
    (tmp_path / "tasks" / "mine.yaml").write_text(comments + "defaults:\n  - /schema/tasks/code@_here_\n")
    (tmp_path / "tasks" / "broken.yaml").write_text("a: [")
    assert commands.run("tasks", ["--config-dir", str(tmp_path)]) == 0
    assert re.search(r"^  mine +7 programs +Mine: odd \[none\]$", capsys.readouterr().out, re.M)


def test_names_of_lm_eval_are_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("task: my_arc_challenge\n")
    assert commands.run("tasks", ["lm_eval", "arc", "CHALLENGE", "--json", "--include-path", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"arc_challenge", "my_arc_challenge"} <= set(found["tasks"])
    assert all("arc" in name.lower() and "challenge" in name.lower() for names in found.values() for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hellaswg"], "no such task (did you mean hellaswag?)"),
        (["lm_eval", "qqqq"], "no name of lm-eval has that in it"),
        (["lm_eval/qqqq"], "no name of lm-eval has that in it"),
        (["--config-dir", "/nope"], "--config-dir=/nope is not a folder"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("tasks", words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
