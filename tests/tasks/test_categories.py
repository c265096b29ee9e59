"""The category of an item: a field or a template of it, in every task over items."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.core.errors import TaskError
from launcher.core.types import Json
from launcher.tasks.continuation import Continuation
from launcher.tasks.generation import Generation
from launcher.tasks.letter_choice import LetterChoice
from launcher.tasks.multiple_choice import MultipleChoice


def found(folder: Path, category: str, items: list[Json]) -> list[str | None]:
    file = folder / "items.jsonl"
    file.write_text("\n".join(json.dumps({"q": "a", "a": "b", **item}) for item in items))
    task = Generation(path=str(file), prompt="{{q}}", target="a", category=category)
    return [sample.category for sample in task.samples("t", "m")]


@pytest.mark.parametrize(
    ("category", "items", "expected"),
    [
        ("", [{}], [None]),
        ("about", [{"about": "sea"}, {"about": " air "}, {"about": 7}, {"about": None}, {"about": ""}],
         ["sea", "air", "7", None, None]),
        ("about.field", [{"about": {"field": "x"}}], ["x"]),
        ("{{about}}/{{level}}", [{"about": "sea", "level": 2}], ["sea/2"]),
    ],
)  # fmt: skip
def test_a_sample_has_the_category_of_its_item(
    tmp_path: Path, category: str, items: list[Json], expected: list[str | None]
) -> None:
    assert found(tmp_path, category, items) == expected


@pytest.mark.parametrize(
    ("item", "line"),
    [({"about": ["sea"]}, r"items.jsonl:1: category=about is \['sea'\], expected a text"), ({}, "'about' is missing")],
)
def test_what_is_no_category_is_named_with_its_line(tmp_path: Path, item: Json, line: str) -> None:
    with pytest.raises(TaskError, match=line):
        found(tmp_path, "about", [item])


def test_every_kind_of_task_has_it(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"q": "a", "c": ["x", "y"], "a": 0, "about": "sea"}))
    tasks = [
        MultipleChoice(path=str(file), context="{{q}}", choices="c", answer="a", category="about"),
        LetterChoice(path=str(file), context="{{q}}", choices="c", answer="a", category="about"),
        Continuation(path=str(file), context="{{q}}", continuation=" {{c[0]}}", category="about"),
    ]
    assert [next(iter(task.samples("t", "m"))).category for task in tasks] == ["sea"] * 3
