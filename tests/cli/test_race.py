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
LIMITED = ECHO, f"{ECHO} tasks.addition.limit=3"


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
        (["tiny", "tiny", "resume=c0"], "resume=c0: a race is continued by launcher race --resume FOLDER"),
        (["tiny", "model=tiny hydra.run.dir=x"], "hydra.run.dir=x: both runs are written below --out FOLDER"),
        (["--resume", "x", "--tasks", "addition"], "--tasks: with --resume, all is as the race began"),
        (["--resume", "x", "--out", "y"], "--out: with --resume, all is as the race began"),
        (["tiny", "tiny", "--tasks", ","], "--tasks ,: there is no name in it"),
        (["tiny", "tiny", "--tasks", "addition", "tasks=[capitals]"], "tasks=[capitals] contradicts --tasks"),
        (["tiny", "model=tiny tasks=[capitals]", "--tasks", "addition"], "tasks=[capitals] contradicts --tasks"),
        (["tiny", "model=tiny evaluate.seed=1", "evaluate.seed=2"], "evaluate.seed=2 contradicts B, model=tiny"),
        ([ECHO, f"{ECHO} tasks=[capitals]"], "only one of the models is asked addition"),
        ([ECHO, f"{ECHO} evaluate.limit=3"], "evaluate.limit differs"),
        ([ECHO, f"{ECHO} evaluate.order_seed=3"], "evaluate.order_seed differs"),
        (
            [ECHO, f"{ECHO} tasks=[addition] tasks.addition.limit=3"],
            "tasks: only one of the models is asked capitals, sequences",
        ),
        ([*LIMITED, "--tasks", "addition"], "tasks.addition: question 4 is another one"),
        (
            [ECHO, f"{ECHO} tasks.addition.match=contains", "--tasks", "addition"],
            "metrics of the tasks differ",
        ),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_served(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert dispatch(["race", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert line in error
    assert error.count("\n") == 0
    assert not (tmp_path / "outputs").exists()


def test_what_the_sides_differ_in_is_what_is_compared(tmp_path, monkeypatch, capsys):
    """Two settings of one model race to a verdict, which says in what they differ."""
    monkeypatch.chdir(tmp_path)
    warm = f"{ECHO} evaluate.temperature=0 tasks.addition.fewshot_separator=x"
    assert dispatch(["race", ECHO, warm, "--tasks", "addition", "--out", "race", "evaluate.limit=4"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "B evaluate.temperature: null -> 0.0" in shown
    assert "score the same in each of 4 questions" in shown
    assert "did not measure the same" not in shown
    found = json.loads(Path("race/comparison.json").read_text())
    assert [line.partition(":")[0] for line in found["subject"]["B"]] == [
        "tasks.addition.settings.fewshot_separator",
        "evaluate.temperature",
    ]
    assert "the same model and settings" not in Path("race/comparison.html").read_text()


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
