from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Json, Response, Status
from launcher.settings.evaluate import Evaluate
from launcher.tasks import ifeval
from launcher.tasks.base import check_tasks
from launcher.tasks.ifeval import IFEval
from tests.scoring import score

for package in "lm_eval", "langdetect", "immutabledict", "nltk":
    pytest.importorskip(package)

NO_COMMA: Json = ("punctuation:no_comma", {})
WORDS: Json = ("length_constraints:number_words", {"relation": "at least", "num_words": 3, "num_sentences": None})
GERMAN: Json = ("language:response_language", {"language": "de"})
SENTENCES: Json = ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2})


@pytest.fixture
def task(jsonl: Callable[..., str]) -> Callable[..., IFEval]:
    def make(*instructions: tuple[str, Json], **fields: Any) -> IFEval:
        names, values = [name for name, _ in instructions], [value for _, value in instructions]
        return IFEval(path=jsonl({"key": 7, "prompt": "Say!", "instruction_id_list": names, "kwargs": values} | fields))

    return make


@pytest.mark.parametrize(
    ("answer", "strict", "loose"),
    [
        ("Das ist ein Satz", [True, True], [True, True]),
        ("Nein, das geht nicht", [False, True], [False, True]),
        ("Sure, here it is:\nDas ist ein Satz", [False, True], [True, True]),
        ("Nein, nein", [False, False], [False, False]),
    ],
)
def test_every_instruction_is_checked(task: Any, answer: str, strict: list[bool], loose: list[bool]) -> None:
    (sample,) = task(NO_COMMA, WORDS).samples("t", "m")
    assert ifeval.followed(sample.target, answer) == {
        "prompt_level_strict_acc": float(all(strict)),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": float(all(loose)),
        "inst_level_loose_acc": loose,
    }


def test_an_answer_is_scored_in_a_process_of_its_own(task: Any, chat_answer: Callable[..., Response]) -> None:
    (sample,) = task(NO_COMMA, GERMAN).samples("t", "m")
    found = score(task(NO_COMMA, GERMAN), sample, chat_answer("Das ist ein Satz, auf Deutsch."))
    assert (found.status, found.scores["inst_level_strict_acc"]) == (Status.scored, [False, True])


def test_a_cut_answer_is_truncated(task: Any, chat_answer: Callable[..., Response]) -> None:
    (sample,) = task(NO_COMMA).samples("t", "m")
    assert score(task(NO_COMMA), sample, chat_answer("So", "length")).status is Status.truncated


def test_instructions_count_alike(task: Any) -> None:
    metric = {metric.name: metric for metric in task(NO_COMMA).metrics}["inst_level_strict_acc"]
    assert metric.result([("a", [True, False, True]), ("b", [False])], 2).value == 0.5


@pytest.mark.parametrize(
    ("instructions", "fields", "message"),
    [
        ([("no:such", {})], {}, "items.jsonl:1: 'no:such' is no instruction"),
        ([("language:response_language", {})], {}, "lacks a value"),
        ([("punctuation:no_comma", {"commas": 1})], {}, "cannot be checked with kwargs"),
        ([("punctuation:no_comma", None)], {}, "cannot be checked with kwargs"),
        ([NO_COMMA], {"kwargs": []}, "lists of one length"),
        ([NO_COMMA], {"prompt": 3}, "must be a text"),
    ],
)
def test_an_item_that_cannot_be_checked_is_refused(task: Any, instructions: Any, fields: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        list(task(*instructions, **fields).samples("t", "m"))


def test_missing_data_is_said_before_anything_is_loaded(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match=r"nltk\.downloader punkt_tab"):
        list(task(SENTENCES).samples("t", "m"))
    with pytest.raises(UserError, match=r"tasks.ifeval: path is empty: no package has the prompts"):
        check_tasks({"ifeval": IFEval()}, Evaluate())


def test_examples_need_their_answers(task: Any, jsonl: Callable[..., str]) -> None:
    shot = {"key": 1, "prompt": "Say A!", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "said": "A"}
    path = jsonl(shot, shot | {"key": 2, "prompt": "Say B!"})
    with pytest.raises(UserError, match="fewshot=1: set fewshot_answer"):
        list(IFEval(path=path, fewshot=1).samples("t", "m"))
    first = next(IFEval(path=path, fewshot=1, fewshot_answer="{{said}}").samples("t", "m"))
    assert [m["content"] for m in first.requests[0].body["messages"]] == ["Say B!", "A", "Say A!"]


def test_a_repaired_file_leaves_the_rest_of_the_fingerprint(task: Any) -> None:
    before = task(NO_COMMA).fingerprint()
    after = task(WORDS).fingerprint()
    assert before.pop("item_files") != after.pop("item_files")
    assert before == after
