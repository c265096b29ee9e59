from __future__ import annotations

import math

import pytest

from launcher.core.errors import TaskError
from launcher.core.types import Response, Status
from launcher.tasks.continuation import Continuation
from launcher.tasks.loglikelihood import NoLogprobs, beginning, is_greedy
from launcher.tasks.multiple_choice import MultipleChoice
from tests.scoring import score

ROW = {"context": "the last", "continuation": "word"}


def echoed(prompt, values, best, index=0):
    """Answer with one token per character of the prompt, and one generated token."""
    logprobs = {
        "token_logprobs": [None, *values, -9.0],
        "top_logprobs": [None, *({"x": value} for value in best), {"y": -9.0}],
        "text_offset": list(range(len(prompt) + 1)),
    }
    return {"index": index, "text": prompt + "?", "logprobs": logprobs, "finish_reason": "length"}


def scored(task, values, best):
    [sample] = task.samples("t", "m")
    prompt = sample.requests[0].body["prompt"]
    return score(task, sample, Response(200, {"choices": [echoed(prompt, values, best)]}))


@pytest.mark.parametrize(
    ("best", "acc"), [([-1.0] * 12, 1.0), ([-1.0] * 11 + [-0.5], 0.0), ([0.0] * 7 + [-1.0] * 5, 1.0)]
)
def test_a_continuation_is_right_if_each_of_its_tokens_is_the_most_likely_one(jsonl, best, acc):
    found = scored(Continuation(path=jsonl(ROW)), [-1.0] * 12, best)
    assert (found.status, found.scores) == (Status.scored, {"acc": acc, "perplexity": -5.0})
    assert found.prediction == {"loglikelihood": -5.0, "is_greedy": bool(acc)}


def test_perplexity_is_that_of_the_whole_continuations():
    perplexity = Continuation().metrics[1].result([("a", -1.0), ("b", -3.0)], 2)
    assert perplexity.value == pytest.approx(math.exp(2))


@pytest.mark.parametrize("missing", [[], None, [None] * 13, [{}] * 13])
def test_an_answer_without_the_most_likely_tokens_fails_and_does_not_count_as_wrong(jsonl, missing):
    task = Continuation(path=jsonl(ROW))
    [sample] = task.samples("t", "m")
    choice = echoed(sample.requests[0].body["prompt"], [-1.0] * 12, [-1.0] * 12)
    choice["logprobs"]["top_logprobs"] = missing
    assert score(task, sample, Response(200, {"choices": [choice]})).status is Status.failed
    with pytest.raises(NoLogprobs):
        is_greedy(choice, "the last word", 8)


@pytest.mark.parametrize("row", [{"context": "", "continuation": "word"}])
def test_an_item_without_a_context_is_refused(jsonl, row):
    with pytest.raises(TaskError, match="the context is empty"):
        list(Continuation(path=jsonl(row)).samples("t", "m"))


def test_white_space_at_the_end_of_the_context_counts():
    assert beginning("a stem  end", " end") == len("a stem")
    assert beginning("a\n\nend", "end") == 1
    assert beginning(" end", "end") == 1


def test_choices_within_the_context_are_compared_by_what_follows_them(jsonl):
    row = {"sentence": "Ann told Beth that _ had won.", "options": ["Ann", "Beth"], "answer": "2"}
    task = MultipleChoice(
        path=jsonl(row),
        context="{{sentence.split('_')[0]}}",
        choices="options",
        prefix="",
        continuation=" {{sentence[sentence.index('_') + 1:]|trim}}",
        answer="{{answer|int - 1}}",
    )
    [sample] = task.samples("t", "m")
    prompts = sample.requests[0].body["prompt"]
    assert prompts == ["Ann told Beth that Ann had won.", "Ann told Beth that Beth had won."]
    assert [metric.name for metric in task.metrics] == ["acc"]
    # The choice itself is unlikely, which does not count: only " had won." does.
    values = [[0.0] * 22 + [-1.0] * 8, [-7.0] * 22 + [-0.5] * 9]
    choices = [echoed(p, v, v, i) for i, (p, v) in enumerate(zip(prompts, values, strict=True))]
    found = score(task, sample, Response(200, {"choices": choices}))
    assert found.scores == {"acc": 1.0}
    assert found.prediction == {"index": 1, "text": "Beth", "loglikelihoods": [-8.0, -4.5]}
