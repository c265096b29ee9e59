from __future__ import annotations

from typing import Any

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json, Response, Status
from launcher.tasks.multiple_choice import MultipleChoice
from tests.scoring import score

ROW = {"id": "q1", "question": "the capital of france is ", "choices": ["rome", "paris"], "answer": 1}
ARC: Json = {
    "id": "MCAS",
    "question": "Which?",
    "choices": {"text": ["a telephone", "a tv", "ice"], "label": ["A", "B", "C"]},
    "answerKey": "C",
}
ARC_TASK: dict[str, Any] = {
    "context": "Question: {{question}}\nAnswer:",
    "choices": "choices.text",
    "answer": "answerKey",
    "labels": "choices.label",
}


def sample_of(task):
    [sample] = task.samples("t", "m")
    return sample


def echoed(prompts, likelihoods):
    """Answer as a server would that has one token per character; the last of the prompt takes the whole likelihood."""
    choices = []
    for i, (prompt, value) in enumerate(zip(prompts, likelihoods, strict=True)):
        values = [None, *[0.0] * (len(prompt) - 2), value, -50.0]
        logprobs = {"token_logprobs": values, "text_offset": list(range(len(prompt) + 1))}
        choices.append({"index": i, "text": prompt + "?", "logprobs": logprobs, "finish_reason": "length"})
    return Response(200, {"choices": choices[::-1]})


def test_one_request_with_a_prompt_per_choice(jsonl):
    sample = sample_of(MultipleChoice(path=jsonl(ROW), prefix=""))
    assert sample.requests[0].path == "/v1/completions"
    assert sample.requests[0].body == {
        "model": "m",
        "prompt": ["the capital of france is rome", "the capital of france is paris"],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
    }
    assert sample.target == {"index": 1, "text": "paris", "choices": ["rome", "paris"]}


def test_the_format_of_arc(jsonl):
    sample = sample_of(MultipleChoice(path=jsonl(ARC), **ARC_TASK))
    assert sample.requests[0].body["prompt"][0] == "Question: Which?\nAnswer: a telephone"
    assert sample.target["text"] == "ice"


def test_choices_from_templates(jsonl):
    row = {"question": "q", "right": "x", "wrong": "y", "answer": 0}
    sample = sample_of(MultipleChoice(path=jsonl(row), choice_templates=["{{right}}", "{{wrong}}"]))
    assert sample.requests[0].body["prompt"] == ["q x", "q y"]


def test_the_answer_may_be_the_text_of_a_choice(jsonl):
    assert sample_of(MultipleChoice(path=jsonl(ROW | {"answer": "rome"}))).target["index"] == 0


def test_acc_takes_the_sum_and_acc_norm_the_sum_per_character(jsonl):
    task = MultipleChoice(path=jsonl(ARC), **ARC_TASK)
    sample = sample_of(task)
    found = score(task, sample, echoed(sample.requests[0].body["prompt"], [-6.0, -5.0, -4.0]))
    assert found.status is Status.scored
    assert found.scores == {"acc": 1.0, "acc_norm": 0.0}
    assert found.prediction == {"index": 2, "text": "ice", "index_norm": 0, "loglikelihoods": [-6.0, -5.0, -4.0]}


def test_the_first_of_equals_is_taken(jsonl):
    task = MultipleChoice(path=jsonl(ROW | {"choices": ["rome", "oslo"]}))
    sample = sample_of(task)
    assert score(task, sample, echoed(sample.requests[0].body["prompt"], [-1.0, -1.0])).prediction["index"] == 0


def test_the_same_predictions_as_lm_eval(jsonl):
    """Compares with numpy, in the way of lm_eval.api.task.ConfigurableTask.process_results."""
    np = pytest.importorskip("numpy")
    rng, task = np.random.default_rng(0), MultipleChoice(path=jsonl(ARC), **ARC_TASK)
    sample = sample_of(task)
    lengths = np.array([float(len(c)) for c in ARC["choices"]["text"]])
    for _ in range(50):
        lls = rng.uniform(-9, -1, 3)
        found = score(task, sample, echoed(sample.requests[0].body["prompt"], lls.tolist()))
        assert found.scores == {"acc": float(np.argmax(lls) == 2), "acc_norm": float(np.argmax(lls / lengths) == 2)}


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"choices": None},
        {"choices": [3]},
        {"choices": []},
        {"choices": [{"text": "x"}, {"text": "y"}]},
        {"choices": [{"index": 0}, {"index": 0}]},
        {"choices": [{"index": 0, "text": "rome", "logprobs": {"token_logprobs": [-1.0]}}, {"index": 1, "text": "x"}]},
    ],
)
def test_a_server_that_does_not_echo_fails_the_sample(jsonl, body):
    task = MultipleChoice(path=jsonl(ROW))
    found = score(task, sample_of(task), Response(200, body))
    assert found.status is Status.failed
    assert found.reason
    assert not found.scores


def test_generated_text_only_is_never_scored_at_the_level_of_chance(jsonl):
    """As llama.cpp's server does: it accepts ``echo`` and returns what it generated."""
    task = MultipleChoice(path=jsonl(ROW))
    logprobs = {"tokens": [" a"], "token_logprobs": [-1.0], "text_offset": [0]}
    choices = [{"index": i, "text": " a", "logprobs": logprobs} for i in range(2)]
    found = score(task, sample_of(task), Response(200, {"choices": choices}))
    assert (found.status, found.scores) == (Status.failed, {})
    assert "echo" in str(found.reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": 2}, "answer='answer' gives 2; expected an index from 0 to 1"),
        ({"answer": -1}, "answer='answer' gives -1"),
        ({"answer": True}, "answer='answer' gives True"),
        ({"answer": "berlin"}, "answer='answer' gives 'berlin'"),
        ({"answer": None}, "answer='answer' gives None"),
        ({"choices": ["x"]}, "2 or more"),
        ({"choices": ["x", ""]}, "2 or more"),
        ({"choices": "xy"}, "list"),
        ({"choices": ["x", "x"], "answer": "x"}, "answer='answer' gives 'x'"),
        ({"question": ""}, "context is empty"),
    ],
)
def test_a_bad_item_is_named_with_its_place(jsonl, change, reason):
    with pytest.raises(TaskError, match=r"items\.jsonl:1: ") as error:
        sample_of(MultipleChoice(path=jsonl(ROW | change)))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("{{answer}}", "1"),
        ("{{answer|int - 1}}", 2),
        ("{{answer|int}}", True),
        ("{{answer}}", "Berlin"),
        ("{% if answer == 'b' %}1{% else %}0{% endif %}", "b"),
        ("{{ {'yes': 1, 'no': 0}[answer] }}", "yes"),
    ],
)
def test_an_answer_may_be_a_template(jsonl, answer, value):
    sample = sample_of(
        MultipleChoice(path=jsonl(ROW | {"choices": ["Paris", "Berlin"], "answer": value}), answer=answer)
    )
    assert sample.target == {"index": 1, "text": "Berlin", "choices": ["Paris", "Berlin"]}


@pytest.mark.parametrize("value", ["2", "-1", "1.0", "", "Rome"])
def test_a_template_must_make_an_index_or_a_choice(jsonl, value):
    with pytest.raises(TaskError, match=r"items\.jsonl:1: answer='{{answer}}' gives .*expected an index from 0 to 1"):
        sample_of(MultipleChoice(path=jsonl(ROW | {"answer": value}), answer="{{answer}}"))


def test_labels_must_fit(jsonl):
    for change, reason in (
        ({"answerKey": "D"}, "one of the labels"),
        ({"choices": ARC["choices"] | {"label": ["A"]}}, "3 choices"),
        ({"choices": ARC["choices"] | {"label": ["C", "C", "A"]}}, "one of the labels"),
    ):
        with pytest.raises(TaskError, match=reason):
            sample_of(MultipleChoice(path=jsonl(ARC | change), **ARC_TASK))


def test_limit_size_and_fingerprint(jsonl):
    path = jsonl(ROW, ROW | {"id": "q2"})
    assert len(list(MultipleChoice(path=path, limit=1).samples("t", "m"))) == 1
    assert [MultipleChoice(path=path, limit=limit).size() for limit in (1, None)] == [1, 2]
    assert len(MultipleChoice(path=path).fingerprint()["item_files"]["items"]) == 64
    with pytest.raises(UserError, match="limit is 0"):
        MultipleChoice(path=path, limit=0)
