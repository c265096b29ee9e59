"""Choices and right answers are read from every usual form of data, and what is not clear is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.tasks.letter_choice import LetterChoice
from launcher.tasks.multiple_choice import MultipleChoice

ROW = {"question": "q", "choices": ["x", "y", "z"], "a": "x", "b": "y", "c": 3, "n": {"one": "p", "two": "r"}}


@pytest.mark.parametrize("kind", [MultipleChoice, LetterChoice])
@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ("choices", ["x", "y", "z"]),
        ("{{choices}}", ["x", "y", "z"]),
        ("{{[a, b, c]}}", ["x", "y", "3"]),
        (["{{a}}", "{{b}}"], ["x", "y"]),
        (["no", "yes"], ["no", "yes"]),
        ("{{[n.one, n.two]}}", ["p", "r"]),
        ("{{n.values()|list}}", ["p", "r"]),
        ("{{'k;l;m'.split(';')}}", ["k", "l", "m"]),
    ],
)
def test_choices(jsonl, kind, choices, expected):
    (sample,) = kind(path=jsonl(ROW | {"answer": 1}), choices=choices).samples("t", "m")
    assert sample.target["choices"] == expected
    assert sample.target["text"] == expected[1]


@pytest.mark.parametrize("choices", ["a", "n", "{{[a]}}", "{{[a, '']}}", "{{[a, none]}}", "{{a}}, {{b}}", "{{[n, n]}}"])
def test_what_is_no_list_of_texts_is_refused(jsonl, choices):
    with pytest.raises(TaskError, match=r"items\.jsonl:1: choices="):
        list(MultipleChoice(path=jsonl(ROW | {"answer": 1}), choices=choices).samples("t", "m"))


NUMBERS = ["4", "2", "1"]


@pytest.mark.parametrize("kind", [MultipleChoice, LetterChoice])
@pytest.mark.parametrize(
    ("choices", "value", "settings", "index"),
    [
        (ROW["choices"], 2, {}, 2),
        (ROW["choices"], "y", {}, 1),
        (ROW["choices"], "C", {}, 2),
        (ROW["choices"], "1", {"answer": "{{answer|int}}"}, 1),
        (ROW["choices"], "1", {"answer": "{{answer|int - 1}}"}, 0),
        (ROW["choices"], 3, {"answer": "{{answer - 1}}"}, 2),
        (ROW["choices"], "x ", {}, 0),
        (ROW["choices"], "two", {"answer": "{% if answer == 'two' %}1{% endif %}"}, 1),
        (ROW["choices"], "2", {"labels": ["1", "2", "3"]}, 1),
        (ROW["choices"], 2, {"labels": ["1", "2", "3"]}, 1),
        (ROW["choices"], "b", {"labels": "{{['a', 'b', 'c']}}"}, 1),
        (["no", "yes"], True, {"labels": [False, True]}, 1),
        (["yes", "no"], True, {"labels": [True, False]}, 0),
        (["no", "yes"], True, {"answer": "{{answer|int}}"}, 1),
        (NUMBERS, "2", {}, 1),
        (NUMBERS, "2", {"answer": "{{answer}}"}, 1),
        (NUMBERS, 2, {}, 2),
        (NUMBERS, "2", {"answer": "{{answer|int}}"}, 2),
        (["B", "A"], "A", {}, 1),
    ],
)
def test_the_right_answer(jsonl, kind, choices, value, settings, index):
    row: dict[str, Any] = {"question": "q", "choices": choices, "answer": value}
    (sample,) = kind(path=jsonl(row), **settings).samples("t", "m")
    assert sample.target["text"] == choices[index]


@pytest.mark.parametrize(
    ("value", "settings", "words"),
    [
        ("1", {}, "answer='{{answer|int}}' where they count from 0, '{{answer|int - 1}}' from 1"),
        (3, {}, "expected an index from 0 to 2"),
        (-1, {}, "expected an index from 0 to 2"),
        ("D", {}, "a letter from A to C"),
        (True, {}, "give labels=[false,true]"),
        (None, {}, "gives None"),
        (1.0, {}, "gives 1.0"),
        ("no", {}, "the text of one choice"),
        ("E", {"labels": ["A", "B", "C"]}, "one of the labels ['A', 'B', 'C'] is needed"),
        ("A", {"labels": ["A", "B"]}, "there are 3 choices, but the labels are ['A', 'B']"),
        (None, {"labels": ["A", "B", "C"]}, "a value is null"),
        (0, {"answer": "label"}, "field 'label' is missing; the item has"),
    ],
)
def test_an_answer_that_names_no_choice_is_refused(jsonl, value, settings, words):
    with pytest.raises(TaskError) as error:
        list(MultipleChoice(path=jsonl(ROW | {"answer": value}), **settings).samples("t", "m"))
    assert words in str(error.value)
    assert "items.jsonl:1: " in str(error.value)


@pytest.mark.parametrize("settings", [{"choices": 3}, {"choices": [1]}, {"choices": "{{a"}, {"answer": "{{"}])
def test_settings_that_cannot_be_read_are_refused_when_composing(settings):
    with pytest.raises(UserError):
        MultipleChoice(**settings)
