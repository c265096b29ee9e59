"""A judge compares two answers in both orders, and only what both say counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Request, Response, Score, Status
from launcher.tasks.pairwise import Pairwise


def task(folder: Path, **settings: Any) -> Pairwise:
    file = folder / "items.jsonl"
    file.write_text(json.dumps({"id": "1", "prompt": "Name a colour.", "answer": "red"}) + "\n")
    return Pairwise(path=str(file), **settings or {"target": "answer"})


def chat(text: str) -> Response:
    message = {"role": "assistant", "content": text}
    return Response(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def compared(asked: Pairwise, judge: Callable[[str, str], str]) -> Score:
    """Score the answer "blue"; ``judge`` is told what stands first and what second."""

    async def ask(request: Request, endpoint: str | None = None) -> Response:
        prompt = request.body["messages"][-1]["content"]
        first, second = (prompt.split(f"<answer-{side}-")[1].split("\n")[1] for side in "AB")
        return chat(judge(first, second))

    return await asked.score(next(asked.samples("t", "m")), [chat("blue")], ask)


def prefers(*best: str) -> Callable[[str, str], str]:
    return lambda first, second: "[[A]]" if first in best else "[[B]]" if second in best else "[[tie]]"


@pytest.mark.parametrize(
    ("judge", "outcome", "scores"),
    [
        (prefers("blue"), "win", {"win_rate": 1, "wins": 1, "consistency": 1}),
        (prefers("red"), "loss", {"losses": 1, "consistency": 1}),
        (prefers(), "tie", {"win_rate": 0.5, "ties": 1, "consistency": 1}),
        (lambda first, second: "[[A]]", "tie", {"win_rate": 0.5, "ties": 1, "position_flips": 1}),
        (lambda first, second: "[[B]]", "tie", {"win_rate": 0.5, "ties": 1, "position_flips": 1}),
        (lambda first, second: "[[A]]" if first == "blue" else "[[TIE]]", "tie", {"win_rate": 0.5, "ties": 1}),
    ],
)
async def test_a_verdict_counts_that_both_orders_give(tmp_path, judge, outcome, scores):
    asked = task(tmp_path)
    found = await compared(asked, judge)
    assert found.status is Status.scored
    assert found.prediction["outcome"] == outcome
    assert found.scores == {metric.name: 0.0 for metric in asked.metrics} | scores


async def test_a_verdict_that_cannot_be_read_in_one_order_is_unparsed(tmp_path):
    found = await compared(task(tmp_path), lambda first, second: "[[A]]" if first == "blue" else "[[C]]")
    assert (found.status, found.scores) == (Status.unparsed, {})


def other_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    body = {"model": "other", "messages": [{"role": "user", "content": changes.pop("prompt", "Name a colour.")}]}
    record = {
        "task": "t", "id": "1", "repeat": 0, "request": {"path": "/v1/chat/completions", "body": body},
        "response": chat("green").body, "prediction": "green", "target": None, "scores": {}, "status": "scored",
        "usage": None, "latency_s": 0.1, "reason": None,
    }  # fmt: skip
    (folder / "samples.jsonl").write_text(json.dumps(record | changes) + "\n")
    return folder


async def test_the_other_answer_may_be_that_of_another_run(tmp_path):
    asked = task(tmp_path, against=str(other_run(tmp_path / "other")))
    assert (await compared(asked, prefers("green"))).prediction["outcome"] == "loss"
    assert len(asked.fingerprint()["against"]) == 64


async def test_an_answer_that_the_other_run_lost_is_not_compared(tmp_path):
    asked = task(tmp_path, against=str(other_run(tmp_path / "other", response=None, status="failed", reason="lost")))
    found = await compared(asked, prefers("blue"))
    assert (found.status, found.scores) == (Status.failed, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "Name a number."}, "with another prompt"),
        ({"id": "2"}, "was not asked the sample '1'"),
        ({"task": "u"}, "set against_task to one of u"),
    ],
)
def test_answers_to_other_questions_are_refused(tmp_path, changes, words):
    with pytest.raises(TaskError, match=words):
        list(task(tmp_path, against=str(other_run(tmp_path / "other", **changes))).samples("t", "m"))


@pytest.mark.parametrize("settings", [{"target": "", "max_tokens": 5}, {"target": "answer", "against": "x"}])
def test_there_is_one_other_answer(tmp_path, settings):
    with pytest.raises(UserError, match="target and against"):
        task(tmp_path, **settings)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(TaskError, match="expected a run folder"):
        list(task(tmp_path, against=str(tmp_path)).samples("t", "m"))
