"""The questions that changed, with both answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.core.types import Status
from launcher.verdict import runs
from launcher.verdict.flips import flips, question
from tests.report.report_records import HOSTILE, choice, record
from tests.verdict.run_folders import answered, run_folder


def read(tmp_path: Path, a, b) -> tuple[runs.Run, runs.Run]:
    first, second = runs.read_all([run_folder(tmp_path / "a", a), run_folder(tmp_path / "b", b)])
    return first, second


def test_changed_questions_have_both_answers(tmp_path: Path) -> None:
    found, total = flips(*read(tmp_path, answered({1, 2}, 5), answered({2, 3}, 5)), most=10)
    assert total == 2
    gained, lost = sorted(found, key=lambda flip: -flip["gain"])
    assert (gained["id"], gained["gain"], gained["target"]) == ("3", 1.0, "10")
    assert (gained["answer_a"], gained["answer_b"]) == ("11", "10")
    assert (lost["id"], lost["gain"]) == ("1", -1.0)
    assert gained["question"] == "system: Answer with a number.\nuser: What is 3 plus 7?"


@pytest.mark.parametrize(("most", "gains", "losses"), [(4, 2, 2), (10, 8, 2), (100, 90, 2)])
def test_both_directions_are_shown(tmp_path: Path, most: int, gains: int, losses: int) -> None:
    found, total = flips(*read(tmp_path, answered({0, 1}), answered(set(range(2, 92)))), most=most)
    assert total == 92
    assert (sum(flip["gain"] > 0 for flip in found), sum(flip["gain"] < 0 for flip in found)) == (gains, losses)


def test_a_choice_shows_what_all_of_its_prompts_begin_with(tmp_path: Path) -> None:
    (flip,), _ = flips(*read(tmp_path, [choice(1, False), choice(2, True)], [choice(1, True), choice(2, True)]), most=9)
    assert flip["question"] == "Question 1: the capital of France is "
    assert (flip["target"], flip["answer_a"], flip["answer_b"]) == ("Paris", "Oslo", "Paris")


def test_several_requests_share_a_question() -> None:
    requests = tuple({"path": "/v1/completions", "body": {"prompt": f"2+2= {end}"}} for end in ("4", "5"))
    assert question(record(1, requests=requests, responses=({}, {}))) == "2+2= "
    assert question(record(1, requests=({"path": "/v1/completions", "body": {"prompt": [1, 2]}},))) == ""


def test_what_only_one_run_scored_is_no_change(tmp_path: Path) -> None:
    a, b = read(tmp_path, answered({1}, 2), [record(0, Status.failed), record(1, right=True)])
    assert flips(a, b, most=9) == ([], 0)


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    long = HOSTILE * 1000
    a, b = read(tmp_path, [record(1, right=False, prediction=long)], [record(1, target="8", prediction="8")])
    (flip,), _ = flips(a, b, most=2)
    assert len(flip["answer_a"]) < 5_000
    assert " […] " in flip["answer_a"]
