"""``launcher race`` as a user calls it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from launcher.cli.main import dispatch
from tests.running import SLOW, program, wait_for

ROOT = Path(__file__).parents[2]
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


def test_an_interrupted_race_says_in_one_line_how_it_goes_on(tmp_path, monkeypatch, capsys):
    model = shlex.join((*ECHO.split(), *SLOW))
    asked = [sys.executable, str(ROOT / "launch.py"), "race", model, model, "--tasks", "addition", "--out", "my race"]
    with program([*asked, "evaluate.limit=6"], tmp_path) as process:
        samples = [tmp_path / "my race" / label / "samples.jsonl" for label in "ab"]
        wait_for(lambda: all(each.exists() and each.read_bytes().count(b"\n") >= 2 for each in samples), process, 120)
        process.send_signal(2)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    told = [line for line in said.splitlines() if "interrupted" in line]
    assert told == ["launcher: interrupted; continue with launcher race --resume 'my race'"]
    kept = [each.read_bytes() for each in samples]
    assert all(0 < each.count(b"\n") < 6 for each in kept)
    monkeypatch.chdir(tmp_path)
    assert dispatch(["race", "--resume", "my race"]) == 0
    assert "score the same in each of 6 questions" in " ".join(capsys.readouterr().out.split())
    for before, file in zip(kept, samples, strict=True):
        assert set(before.splitlines()) <= set(file.read_bytes().splitlines())


def test_a_race_over_passages_of_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
    """Options of ``--config-dir`` and of Hydra's search path count; questions that share a passage are one unit."""
    monkeypatch.chdir(tmp_path)
    Path("options/tasks").mkdir(parents=True)
    items = [{"q": f"q{n}", "a": "a", "about": f"c{n % 2}", "passage": f"p{n // 3}"} for n in range(12)]
    Path("options/tasks/mine.jsonl").write_text("\n".join(map(json.dumps, items)))
    Path("options/tasks/mine.yaml").write_text(
        "# @package tasks.mine\ndefaults:\n  - /schema/tasks/generation@_here_\npath: mine.jsonl\nprompt: '{{q}}'\n"
        "target: a\ncategory: about\ncluster: passage\n"
    )
    Path("more/experiment").mkdir(parents=True)
    Path("more/experiment/brief.yaml").write_text("# @package _global_\nevaluate:\n  max_tokens: 99\n")
    more = [f"hydra.searchpath=[file://{tmp_path}/more]", "experiment=brief"]
    assert dispatch(["race", ECHO, ECHO, "--tasks", "mine", "--config-dir", "options", "--out", "race", *more]) == 0
    assert "max_tokens: 99" in Path("race/a/.hydra/config.yaml").read_text()
    assert "A and B score the same in each of 12 questions in 4 passages" in " ".join(capsys.readouterr().out.split())
    found = json.loads(Path("race/a/results.json").read_text())["tasks"]["mine"]
    assert {name: each["coverage"]["total"] for name, each in found["categories"].items()} == {"c0": 6, "c1": 6}
    drawn = json.loads(Path("race/a/journal.json").read_text())["early_stop"]["populations"]["mine"]
    assert (drawn["units"], drawn["largest"]) == ({"mine": 4}, {"mine": 3})
