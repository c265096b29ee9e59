from __future__ import annotations

import pytest

from launcher.core.errors import TaskError
from launcher.core.types import Status
from launcher.tasks.letter_choice import LetterChoice
from tests.scoring import score

ROWS = [{"question": f"{n}+1=", "choices": [n, n + 1], "answer": "B"} for n in (1, 3)]
SHOWN = "1+1=\nA. 1\nB. 2\nAnswer with the letter of the right choice."


def test_the_choices_are_listed_over_chat(jsonl):
    first, _ = LetterChoice(path=jsonl(*ROWS)).samples("t", "m")
    assert first.requests[0].path == "/v1/chat/completions"
    assert first.requests[0].body["messages"] == [{"role": "user", "content": SHOWN}]
    assert first.target == {"letter": "B", "text": "2", "choices": ["1", "2"]}


def test_examples_are_turns_or_text(jsonl):
    path = jsonl(*ROWS)
    first, _ = LetterChoice(path=path, fewshot=1).samples("t", "m")
    assert [(m["role"], m["content"][:4]) for m in first.requests[0].body["messages"]] == [
        ("user", "3+1="), ("assistant", "B"), ("user", "1+1="),
    ]  # fmt: skip
    first, _ = LetterChoice(path=path, fewshot=1, chat=False, instruction="").samples("t", "m")
    assert first.requests[0].body["prompt"] == "3+1=\nA. 3\nB. 4\nAnswer: B\n\n1+1=\nA. 1\nB. 2\nAnswer:"


@pytest.mark.parametrize(
    ("answer", "status", "scores"),
    [
        ("The answer is B.", Status.scored, {"acc": 1.0}),
        ("(a)", Status.scored, {"acc": 0.0}),
        ("A or B", Status.unparsed, {}),
        ("", Status.unparsed, {}),
    ],
)
def test_scores(jsonl, chat_answer, answer, status, scores):
    task = LetterChoice(path=jsonl(*ROWS))
    first, _ = task.samples("t", "m")
    found = score(task, first, chat_answer(answer))
    assert (found.status, found.scores) == (status, scores)
    assert bool(found.reason) is (status is Status.unparsed)


def test_more_choices_than_letters_are_refused(jsonl):
    with pytest.raises(TaskError, match="letters are for at most 26"):
        list(LetterChoice(path=jsonl({"question": "q", "choices": list(range(27)), "answer": 0})).samples("t", "m"))
