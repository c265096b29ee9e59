from __future__ import annotations

import pytest

from launcher.core.types import Response, Status
from launcher.tasks.answer import text_of


def test_the_text_of_completions_and_chat(completion, chat_answer):
    assert text_of(completion("a")) == "a"
    assert text_of(chat_answer("b")) == "b"
    assert text_of(completion("", None)) == ""


def status(response, **settings):
    score = text_of(response, **settings)
    assert score.reason
    assert not score.scores
    return score.status


def test_an_answer_cut_at_the_limit_is_truncated_unless_accepted(completion, chat_answer):
    assert status(completion("the answer is 4", "length")) is Status.truncated
    assert status(chat_answer(None, "length")) is Status.truncated
    assert text_of(completion("4", "length"), accept_truncated=True) == "4"


def test_an_unfinished_thought_is_truncated_even_when_accepted(completion):
    for finish in ("stop", "length"):
        assert status(completion("", finish, reasoning_unfinished=True), accept_truncated=True) is Status.truncated


def test_refusals(completion, chat_answer):
    assert status(completion("half", "content_filter")) is Status.refused
    assert status(chat_answer(None, refusal="I cannot")) is Status.refused
    assert status(chat_answer(None)) is Status.refused
    assert status(chat_answer(None, "tool_calls")) is Status.refused


@pytest.mark.parametrize(
    "body", [None, "text", {}, {"choices": []}, {"choices": [3]}, {"choices": [{}]}, {"choices": [{"message": None}]},
             {"choices": [{"text": 3}]}, {"error": {"message": "x"}}],
)  # fmt: skip
def test_an_answer_of_another_shape_failed(body):
    assert status(Response(200, body)) is Status.failed
