"""What is wrong with YAML files and data of one's own is said in one line, and no task replaces another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.running import launch_here

TASK: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    row = {"question": "one or two?", "choices": ["one", "two"], "gold": 0}
    (tmp_path / "items.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.jsonl").write_text('{"question": \n')
    (tmp_path / "no_choices.jsonl").write_text(json.dumps({**row, "choices": []}))
    for name in ("own", "own.one", "own_one"):
        write_task(tmp_path, name)
    return tmp_path


def write_task(folder: Path, name: str, data: str = "items.jsonl", **changes: Any) -> None:
    source = {"data_files": {"test": str(folder / data)}, "cache_dir": str(folder / "cache")}
    write(folder, name, json.dumps({"task": name, "dataset_kwargs": source, **TASK, **changes}))


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(text)


def said(folder: Path, *arguments: str, mode: str = "plan") -> str:
    """Return the one line that a refused command prints, which starts no server."""
    ended = launch_here(folder, f"mode={mode}", "engine=echo", f"lm_eval.include_path={folder}", *arguments)
    assert ended.returncode == 1, ended.stdout
    [line] = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("group: g\ntask:\n", "the group lm_eval/g has no tasks"),
        ("group: g\ntask: 3\n", "the group lm_eval/g has task: 3; expected a list of names"),
        ("group: g\ntask: {a: 1}\n", "the group lm_eval/g has task: {'a': 1}"),
        ("group: g\ntask: [ownn]\n", "member 'ownn', which is no task, group or tag (did you mean own"),
        ("group: g\ntask: [g]\n", "contains itself"),
        ("group: g\ntask: [own, {\n", "g.yaml cannot be read: "),
        ("group: g\ninclude: none.yaml\ntask: [own]\n", "none.yaml cannot be read: "),
        ("group: g\ninclude: g.yaml\ntask: [own]\n", "g.yaml includes itself"),
        ("group: g\ntask: [own]\naggregate_metric_list: acc\n", "aggregate_metric_list: 'acc'; expected a list"),
        ("group: g\ntask: [own.one, own_one]\n", "lm_eval_own_one would be both own.one and own_one"),
    ],
)
def test_a_faulty_group_is_one_line(text: str, expected: str, folder: Path) -> None:
    write(folder, "g", text)
    assert expected in said(folder, "tasks=[lm_eval/g]")


def test_two_tasks_with_one_key_are_refused(folder: Path) -> None:
    line = said(folder, "tasks=[lm_eval/own.one,lm_eval/own_one]")
    assert "tasks.lm_eval_own_one: asked in different ways" in line


def test_a_task_alone_and_as_a_group_changes_it_are_refused(folder: Path) -> None:
    write(folder, "g", "group: g\ntask: [{task: own, num_fewshot: 1}]\n")
    line = said(folder, "tasks=[lm_eval/own,lm_eval/g]")
    assert 'tasks=[lm_eval/g] means own with {"num_fewshot": 1}' in line
    write(folder, "g", "group: g\ntask: [own]\n")
    asked = ["mode=plan", "engine=echo", f"lm_eval.include_path={folder}", "tasks=[lm_eval/own,lm_eval/g]"]
    ended = launch_here(folder, *asked)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_fewshot": 9}, "num_fewshot=9 is too many: lm_eval/t has 3 examples"),
        ({"doc_to_text": "{{no_field}}"}, "'no_field' is undefined); its file is "),
        ({"metric_list": [{"metric": "none_such"}]}, "none_such not found"),
        ({"data": "empty.jsonl"}, "one of its splits has no items"),
        ({"data": "cut.jsonl"}, "JSON parse error"),
        ({"data": "no_choices.jsonl"}, "lm_eval/t"),
    ],
)
def test_a_faulty_task_is_one_line(changes: dict[str, Any], expected: str, folder: Path) -> None:
    write_task(folder, "t", **changes)
    assert expected in said(folder, "tasks=[lm_eval/t]", mode="run")


def test_a_name_that_is_like_one_of_the_own_tasks_is_suggested(folder: Path) -> None:
    assert "(did you mean own" in said(folder, "tasks=[lm_eval/ownn]")
