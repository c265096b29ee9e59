"""``launcher race`` as a user calls it."""

from __future__ import annotations

import json

import pytest

from launcher.cli.main import dispatch

ECHO = "engine=echo model=none"


def test_two_equal_models_race_to_the_end_and_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["race", ECHO, ECHO, "--tasks", "addition", "--out", "race", "evaluate.limit=12"]
    assert dispatch(asked) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "A and B score the same in each of 12 questions" in shown
    assert {path.name for path in (tmp_path / "race").iterdir()} >= {"a", "b", "race.json", "comparison.html"}
    samples = [(tmp_path / "race" / label / "samples.jsonl").read_bytes() for label in "ab"]
    assert dispatch(["race", "--resume", "race"]) == 0
    assert [(tmp_path / "race" / label / "samples.jsonl").read_bytes() for label in "ab"] == samples
    results = json.loads((tmp_path / "race" / "b" / "results.json").read_text())
    assert (results["status"], results["tasks"]["addition"]["coverage"]["scored"]) == ("ok", 12)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tiny"], "two models are needed"),
        (["tiny", "tiny", "--resume", "x"], "leave it out"),
        (["--resume", "."], "there is no race.json in it"),
        (["tiny", "tiny", "mode=serve"], "mode=serve: a race is two runs"),
        (["tiny", "./no-such-folder", "--tasks", "capitals"], "no-such-folder"),
        (["tiny", "tiny", "--tasks", "no_such_task"], "tasks=no_such_task: no such option"),
        (["tiny", "tiny", "--tasks", "capitals", "evaluate.until=x"], "evaluate.until=x: expected width:W"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_served(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert dispatch(["race", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert line in error
    assert error.count("\n") == 0
    assert not (tmp_path / "outputs").exists()
