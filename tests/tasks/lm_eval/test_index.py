from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.lm_eval import index
from launcher.tasks.lm_eval.offline import equal_task


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_the_names_of_a_folder_are_those_of_lm_eval(tmp_path: Path) -> None:
    write(tmp_path, "_base", "tag: [both, 'quoted']\noutput_type: multiple_choice\n")
    one = write(tmp_path / "a", "one.yaml", "include: ../_base\n'task': one\ndoc_to_text: !function utils.text\n")
    two = write(tmp_path / "a", "two.yaml", "task:   two  # a comment\ntag:\n  - both\n")
    write(tmp_path / "b", "again.yaml", "task: two\ntag: other\n")
    write(tmp_path / "b", "no_task.yaml", "output_type: generate_until\n")
    write(tmp_path / "b", "broken.yaml", "task: [\n")
    number = write(tmp_path / "b", "number.yaml", "task: t123\n")
    group = write(tmp_path, "group.yaml", "group: all\ntask:\n  - one\n  - two\n")
    found = index.scan(tmp_path)
    assert found.tasks == {"one": str(one), "two": str(two), "t123": str(number)}
    assert found.groups == {"all": str(group)}
    assert found.tags == {"both": ["one", "two"], "quoted": ["one"]}


@pytest.mark.slow
def test_the_index_is_that_of_lm_eval() -> None:
    """Every name and every file, so that an upgrade of lm-eval that changes its index is noticed."""
    from lm_eval.tasks import TaskManager

    manager, ours = TaskManager(), index.read()
    theirs = manager.task_index
    assert set(ours.tasks) == set(manager.all_subtasks)
    assert set(ours.groups) == set(manager.all_groups)
    assert {tag: set(found) for tag, found in ours.tags.items()} == {t: theirs[t].tags for t in manager.all_tags}
    assert {name: str(theirs[name].yaml_path) for name in ours.tasks} == ours.tasks


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    index._stock.cache_clear()
    return tmp_path / "launcher" / f"lm_eval-{index.version()}.json"


def test_the_index_is_kept_and_a_damaged_one_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of lm-eval are read once: that takes a second each time."""
    first = index.read()
    kept, scanned = cache.read_bytes(), list[Path]()

    def scan(folder: Path) -> index.Index:
        scanned.append(folder)
        return first

    monkeypatch.setattr(index, "scan", scan)
    for damage in (None, "", "{", '{"schema_version": 0}', "[]"):
        if damage is not None:
            cache.write_text(damage)
        index._stock.cache_clear()
        scanned.clear()
        assert index.read() == first
        assert len(scanned) == (damage is not None)
        assert json.loads(cache.read_bytes()) == json.loads(kept)


def test_a_task_of_a_folder_comes_before_lm_evals_own(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", "task: arc_easy\n")
    assert index.find("arc_easy", str(tmp_path)) == str(mine)
    assert index.find("arc_challenge", str(tmp_path)).endswith("arc_challenge.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("arc_esay", r"no such task; did you mean arc_easy"),
        ("mmlu", r"a group or a tag of lm-eval; tasks=\[lm_eval/mmlu\]"),
        ("qqqqqqq", r"launcher tasks lm_eval lists its 1\d,\d{3} tasks"),
    ],
)
def test_other_names_are_refused_with_what_helps(name: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        index.find(name)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(TaskError, match="include_path=/nope is not a folder"):
        index.find("arc_easy", "/nope")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("arc_easy", "tasks=[arc_easy]"),
        ("lambada_openai", "tasks=[lambada]"),
        ("mmlu_anatomy", "tasks=[mmlu/anatomy]"),
        ("mmlu", "tasks=[mmlu]"),
        ("ifeval", ""),
    ],
)
def test_a_task_whose_data_cannot_be_had_has_one_of_ours(name: str, ours: str) -> None:
    assert equal_task(name) == ours
