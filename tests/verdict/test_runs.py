"""Which folders can be compared, and what keeps two runs from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.core.errors import UserError
from launcher.core.types import Status
from launcher.report import formatting
from launcher.report.compare import Answers
from launcher.verdict import collect, runs, terminal
from tests.report.report_records import add_point, record
from tests.verdict.run_folders import answered, run_folder

SETTINGS = {"settings": {"limit": None, "prompt": "{{question}}"}, "items": "d1"}


def pair(tmp_path: Path, a: dict, b: dict) -> list[runs.Run]:
    folders = [run_folder(tmp_path / name, answered({1, 2}, 4), **how) for name, how in (("a", a), ("b", b))]
    return runs.read_all(folders)


def test_another_model_is_the_subject_and_no_obstacle(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {"model": "old"}, {"model": "new"})
    assert runs.measured_otherwise(a, b) == []
    assert runs.subject(a, b) == ['checkpoint: "sha256:old" -> "sha256:new"', 'model.name: "old" -> "new"']
    assert [run.label for run in (a, b)] == ["A", "B"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"evaluate": {"temperature": 0.7}}, "evaluate.temperature: null -> 0.7"),
        ({"evaluate": {"seed": 1}}, "evaluate.seed: null -> 1"),
        ({"tasks": {"addition": {**SETTINGS, "items": "d2"}}}, 'tasks.addition.items: "d1" -> "d2"'),
        (
            {"tasks": {"addition": {**SETTINGS, "settings": {"limit": 5, "prompt": "{{question}}"}}}},
            "tasks.addition.settings.limit: null -> 5",
        ),
        ({"versions": {"launcher": "0.2.0"}}, 'versions.launcher: "0.1.0" -> "0.2.0"'),
    ],
)
def test_what_makes_scores_incomparable_is_named(tmp_path: Path, change: dict, line: str) -> None:
    a, b = pair(tmp_path, {"tasks": {"addition": SETTINGS}}, {"tasks": {"addition": SETTINGS}, **change})
    assert runs.measured_otherwise(a, b) == [line]


def test_other_settings_are_said_in_place_of_the_same_model_and_settings(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {"evaluate": {"temperature": 0.0}}, {"evaluate": {"temperature": 1.0}})
    found = collect.collect([a, b], force=True)
    assert found["subject"] == {"B": ["evaluate.temperature: 0.0 -> 1.0"]}
    console = Console(record=True, width=200)
    terminal.show(found, console)
    assert "the same model and settings" not in console.export_text()


@pytest.mark.parametrize("width", [80, 200])
def test_no_head_of_speed_and_cost_is_cut(tmp_path: Path, width: int) -> None:
    speed = dict.fromkeys(formatting.RATES, 1234.5) | {"latency_s": {"p50": 1.5}, "wall_s": 90.0, "prompt_tokens": 9}
    found = collect.collect(pair(tmp_path, {"throughput": speed}, {"throughput": speed}))
    console = Console(record=True, width=width)
    terminal.show(found, console)
    printed = console.export_text()
    assert [head for head in (*formatting.RATES.values(), "latency p50", "wall time") if head not in printed] == []


def test_answers_that_were_scored_again_can_be_compared(tmp_path: Path) -> None:
    folders = [
        run_folder(tmp_path / name, answered({1, 2}, 4), tasks={"addition": SETTINGS}, answers_from=source)
        for name, source in (("asked", None), ("old", "d1"), ("new", "d2"))
    ]
    asked, old, new = runs.read_all(folders)
    assert (old.fingerprint["answers_from"], new.fingerprint["answers_from"]) == ("d1", "d2")
    assert [runs.measured_otherwise(*two) for two in ((asked, old), (old, new))] == [[], []]


def test_a_version_that_computes_no_score_makes_no_difference(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {}, {"versions": {"torch": "3", "lm-eval": "0.5"}})
    assert runs.measured_otherwise(a, b) == []


def test_lm_evals_version_counts_for_its_own_tasks(tmp_path: Path) -> None:
    records = answered({1}, 3, task="lm_eval_arc")
    folders = [run_folder(tmp_path / v, records, versions={"lm-eval": v}) for v in ("0.4.12", "0.4.13")]
    assert runs.measured_otherwise(*runs.read_all(folders)) == ['versions.lm-eval: "0.4.12" -> "0.4.13"']


def test_settings_of_a_task_that_one_run_lacks_are_no_difference(tmp_path: Path) -> None:
    a, b = pair(tmp_path, {"tasks": {"addition": SETTINGS, "other": {}}}, {"tasks": {"addition": SETTINGS}})
    assert runs.common_tasks(a, b) == ["addition"]
    assert runs.measured_otherwise(a, b) == []


def test_a_sweeps_folder_stands_for_its_points(tmp_path: Path) -> None:
    for name in ("2", "10"):
        add_point(tmp_path / "sweep", name, [f"seed={name}"], answered({1}, 2))
        run_folder(tmp_path / "sweep" / name, answered({1}, 2))
    found = runs.read_all([tmp_path / "sweep"])
    assert [run.folder.name for run in found] == ["2", "10"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], ["1 run given", "two or more"]),
        (["a", "a"], ["a is given twice"]),
        (["a", "gone"], ["gone: no such folder"]),
        (["a", "empty"], ["empty: no results.json in it", "of a sweep"]),
        (["a", "started"], ["started", "results.json"]),
        (["a", "broken"], ["broken/results.json"]),
        (["a", "lost"], ["lost: there is no samples.jsonl in it"]),
        (["a", "unasked"], ["unasked: the run ended before it asked a question", "status error"]),
    ],
)
def test_a_folder_that_cannot_be_compared_is_one_line(tmp_path: Path, names: list[str], words: list[str]) -> None:
    run_folder(tmp_path / "a", answered({1}, 2))
    (tmp_path / "empty").mkdir()
    started = run_folder(tmp_path / "started", answered({1}, 2))
    (started / "results.json").unlink()
    lost = run_folder(tmp_path / "lost", answered({1}, 2))
    (lost / "samples.jsonl").unlink()
    broken = run_folder(tmp_path / "broken", answered({1}, 2))
    (broken / "results.json").write_text("{")
    unasked = run_folder(tmp_path / "unasked", [], status="error", reason="no server")
    (unasked / "journal.json").unlink()
    with pytest.raises(UserError) as caught:
        runs.read_all([tmp_path / name for name in names])
    assert [word for word in words if word not in str(caught.value)] == []


def test_samples_that_were_changed_behind_the_results_are_refused(tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a", answered({1}, 4))
    run_folder(tmp_path / "b", answered({1}, 4))
    text = (a / "samples.jsonl").read_text()
    (a / "samples.jsonl").write_text(text.replace('"exact_match": 0.0', '"exact_match": 7.0', 1))
    with pytest.raises(UserError, match=r"addition exact_match is 2 in the samples, 0\.25 in the results"):
        runs.read_all([tmp_path / "a", tmp_path / "b"])


def test_a_point_without_scores_is_named_as_left_out(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        add_point(tmp_path / "sweep", name, [f"seed={name}"], None if name == "1" else answered({1}, 2))
    for name in ("0", "2"):
        run_folder(tmp_path / "sweep" / name, answered({1}, 2))
    assert [run.folder.name for run in runs.read_all([tmp_path / "sweep"])] == ["0", "2"]
    [line] = runs.left_out([tmp_path / "sweep", tmp_path / "sweep" / "0"])
    assert line.startswith(f"{tmp_path / 'sweep' / '1'} is left out: it has no scores (status ")


def test_a_folder_of_runs_is_no_run_and_one_in_it_is_named(tmp_path: Path) -> None:
    run_folder(tmp_path / "race" / "a", answered({1}, 2))
    with pytest.raises(UserError, match=r"race: no results\.json in it; .* finished run, such as .*race/a$"):
        runs.read(tmp_path / "race", "run")
    with pytest.raises(UserError, match=r"gone: no such folder; expected the folder of a finished run$"):
        runs.read(tmp_path / "gone", "run")


def test_a_run_names_its_checkpoint_or_its_server(tmp_path: Path) -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    for config, source in (
        ({"model": {"path": "base"}, "backend": {}}, "base"),
        ({"model": {"path": None}, "backend": {"url": endpoint["url"]}}, endpoint["url"]),
        ({"model": None, "backend": {}}, ""),
        (None, ""),
    ):
        found: Any = {"run": {"config": config}, "endpoint": endpoint}
        assert runs.Run("A", tmp_path, found, {}, Answers({}, {})).source == source


def test_what_has_no_scores_says_what_compares_it(tmp_path):
    check = run_folder(tmp_path / "all/check", [], status="ok", tasks={})
    (check / ".hydra").mkdir()
    (check / ".hydra/overrides.yaml").write_text("[]")
    for given in ([check, check.parent], [check.parent]):
        with pytest.raises(UserError, match="no task was evaluated; launcher check RUN RUN compares"):
            runs.read_all(given)
    for file in ("journal.json", "results.json"):
        (check / file).unlink()
    with pytest.raises(UserError, match="so far: the run has not ended"):
        runs.read_all([check])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def emptied(folder: Path) -> None:
    (folder / "results.json").write_text('{"schema_version": 2}')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("results.json"), "no results.json in it so far: the run has not ended; resume="),
        (without("journal.json"), "there is no journal.json in it, which says what the run asked"),
        (without("samples.jsonl"), "there is no samples.jsonl in it"),
        (emptied, "results.json: it has no status, reason, run"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    made = run_folder(tmp_path / "a", answered({1}))
    change(made)
    with pytest.raises(UserError, match=re.escape(words)):
        runs.read(made, "A")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"target": "else"}, "addition: 4 questions of equal names, none with the same target and a score in both"),
        ({"status": Status.failed}, "addition: B scored no sample"),
        ({"scores": {"other": 1.0}}, "addition: A has exact_match, B has other"),
    ],
)
def test_runs_without_a_common_score_say_why(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    folders = [run_folder(tmp_path / "a", answered({1}, 4)), run_folder(tmp_path / "b", answered({1}, 4, **other))]
    with pytest.raises(UserError, match=f"no scored question in common; {words}"):
        collect.collect(runs.read_all(folders))


def test_samples_without_a_score_are_counted_and_bounded(tmp_path: Path) -> None:
    """A model that gives no readable answer to what it does not know looks better than it is."""
    lossy = [record(n, Status.unparsed if n >= 50 else Status.scored, right=n < 45) for n in range(100)]
    folders = [run_folder(tmp_path / "a", answered(set(range(60)))), run_folder(tmp_path / "b", lossy)]
    told = "the others are left out; counted as the worst, its exact_match is 0.450"
    assert f"B scored 50 of 100 samples of addition: {told}" in collect.collect(runs.read_all(folders))["warnings"]
