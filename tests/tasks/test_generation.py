from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.errors import TaskError, UserError
from launcher.core.types import Response, Sample, Status
from launcher.tasks.compare import Match, Normalize
from launcher.tasks.extraction import Pick
from launcher.tasks.generation import Generation
from tests.scoring import score

ROWS = [{"id": "a", "prompt": "1+1=", "answer": 2}, {"id": "b", "prompt": "1+2=", "answer": 3}]


def samples(task: Generation) -> list[Sample]:
    return list(task.samples("sums", "m"))


def test_a_sample_is_a_completion_request(jsonl):
    [first, second] = samples(Generation(path=jsonl(*ROWS), max_tokens=4, stop=["\n"]))
    assert (first.task, first.id, first.repeat, first.target) == ("sums", "a", 0, "2")
    assert first.requests[0].path == "/v1/completions"
    body = {"model": "m", "prompt": "1+1=", "max_tokens": 4, "temperature": 0.0, "stop": ["\n"]}
    assert first.requests[0].body == body
    assert (second.id, second.key) == ("b", "sums/b/0")


def test_over_chat_with_a_system_message(jsonl):
    task = Generation(path=jsonl(*ROWS), chat=True, system="Be brief about {{id}}.", prompt="What is {{prompt}}\n")
    request = samples(task)[0].requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.body["messages"] == [
        {"role": "system", "content": "Be brief about a."},
        {"role": "user", "content": "What is 1+1=\n"},
    ]
    assert "stop" not in request.body
    assert "prompt" not in request.body


def test_limit_and_size(jsonl):
    path = jsonl(*ROWS)
    assert [s.id for s in samples(Generation(path=path, limit=1))] == ["a"]
    assert [Generation(path=path, limit=limit).size() for limit in (1, 5, None)] == [1, 2, 2]


def test_samples_are_made_lazily(jsonl):
    assert next(Generation(path=jsonl(ROWS[0], "broken")).samples("t", "m")).id == "a"


def test_examples_come_before_the_question(jsonl):
    shots = jsonl(*({"prompt": f"{n}=", "answer": n} for n in (7, 8, 9)), name="shots.jsonl")
    task = Generation(path=jsonl(*ROWS), fewshot=2, fewshot_path=shots, fewshot_delimiter=" ")
    assert samples(task)[0].requests[0].body["prompt"] == "7= 7\n\n8= 8\n\n1+1="
    worded = Generation(path=jsonl(*ROWS), fewshot=1, fewshot_path=shots, fewshot_answer="so {{answer}}", chat=True)
    assert samples(worded)[0].requests[0].body["messages"] == [
        {"role": "user", "content": "7="},
        {"role": "assistant", "content": "so 7"},
        {"role": "user", "content": "1+1="},
    ]


def test_an_item_is_never_its_own_example(jsonl):
    task = Generation(path=jsonl(*ROWS), fewshot=1)
    assert [s.requests[0].body["prompt"] for s in samples(task)] == ["1+2=3\n\n1+1=", "1+1=2\n\n1+2="]
    for count in (2, 3):
        with pytest.raises(TaskError, match=f"fewshot={count}"):
            samples(Generation(path=jsonl(*ROWS), fewshot=count))


def test_several_right_answers(jsonl, completion):
    task = Generation(path=jsonl({"prompt": "x", "a": {"all": ["Paris", "Paname"]}}), targets="a.all")
    [sample] = samples(task)
    assert sample.target == ["Paris", "Paname"]
    assert [score(task, sample, completion(t)).scores["exact_match"] for t in ("Paname", "Rome")] == [1.0, 0.0]


@pytest.mark.parametrize("answers", [[], "Paris", [["a"]], [None], None])
def test_right_answers_must_be_a_list_of_texts(jsonl, answers):
    with pytest.raises(TaskError, match=r"items\.jsonl:1: targets=a: "):
        list(Generation(path=jsonl({"prompt": "p", "a": answers}), targets="a").samples("t", "m"))


@pytest.mark.parametrize(
    ("target", "answer", "expected"),
    [
        ("answer", 2, "2"),
        ("answer", True, "true"),
        ("answer", ["a", "b"], ["a", "b"]),
        ("{{answer}}", ["a", 1], ["a", "1"]),
        ("answer.aliases", {"aliases": ["a"]}, ["a"]),
        ("{{answer|upper}}", "x", "X"),
        ("{{[answer, answer|upper]}}", "x", ["x", "X"]),
        ("#{{answer}}", 2, "#2"),
        ("{{item['answer']}}", "x", "x"),
    ],
)
def test_a_target_is_a_field_or_a_template(jsonl, target, answer, expected):
    (sample,) = Generation(path=jsonl({"prompt": "p", "answer": answer}), target=target).samples("t", "m")
    assert sample.target == expected


def test_a_missing_field_names_file_line_and_fields(jsonl):
    with pytest.raises(TaskError, match=r"items\.jsonl:2: 'answer' is undefined .* the item has prompt"):
        samples(Generation(path=jsonl(ROWS[0], {"prompt": "x"})))


def scored(response, target="4", **settings):
    found = score(Generation(**settings), Sample("t", "1", (), target), response)
    return found.status, found.prediction, dict(found.scores)


def test_exact_match(completion, chat_answer):
    assert scored(completion(" 4\n")) == (Status.scored, "4", {"exact_match": 1.0})
    assert scored(chat_answer("four")) == (Status.scored, "four", {"exact_match": 0.0})
    assert scored(completion("PARIS!"), "paris", normalize=[Normalize.lower, Normalize.punctuation])[2] == {
        "exact_match": 1.0
    }


def test_extract_takes_the_first_or_the_last_match(completion):
    answer = completion("2+2: first 3, no, 4.")
    pattern = r"\d+(?=[,.])"
    assert scored(answer, extract=pattern)[1:] == ("4", {"exact_match": 1.0})
    assert scored(answer, extract=pattern, pick=Pick.first)[1:] == ("3", {"exact_match": 0.0})
    assert scored(completion("The answer is (B)."), "B", extract=r"\(([A-D])\)")[1:] == ("B", {"exact_match": 1.0})


def test_what_cannot_be_parsed_is_not_scored(completion):
    assert scored(completion("no digits"), extract=r"(\d+)") == (Status.unparsed, None, {})
    assert scored(completion("  \n")) == (Status.unparsed, None, {})
    assert scored(completion("many"), match=Match.numeric) == (Status.unparsed, None, {})


def test_numeric_and_contains(completion):
    assert scored(completion("$1,000.00"), "1000", match=Match.numeric)[2] == {"numeric": 1.0}
    assert scored(completion("It is 4, I think"), match=Match.contains)[2] == {"contains": 1.0}


def test_a_match_in_a_truncated_answer_is_not_its_answer(completion):
    answer = completion("the answer is 4, or rather", "length")
    assert scored(answer, extract=r"(\d)") == (Status.truncated, None, {})
    assert scored(answer, extract=r"(\d)", accept_truncated=True) == (Status.scored, "4", {"exact_match": 1.0})


def test_an_unfinished_thought_is_never_scored(completion):
    answer = completion("4", "length", reasoning_unfinished=True)
    assert scored(answer, accept_truncated=True)[0] is Status.truncated


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner)
)


@given(st.fixed_dictionaries({}, optional={
    "text": json_values, "finish_reason": json_values, "message": st.dictionaries(
        st.sampled_from(["content", "refusal", "role"]), json_values),
}))  # fmt: skip
def test_no_answer_makes_it_raise(choice):
    found = score(Generation(extract=r"(\d+)"), Sample("t", "1", (), "4"), Response(200, {"choices": [choice]}))
    assert bool(found.scores) == (found.status is Status.scored)


def test_the_fingerprint_follows_the_items(jsonl):
    before = Generation(path=jsonl(*ROWS)).fingerprint()
    assert Generation(path=jsonl(*ROWS, name="copy.jsonl")).fingerprint() == before
    assert Generation(path=jsonl(*reversed(ROWS))).fingerprint() != before
    shots = jsonl({}, name="shots.jsonl")
    found = Generation(path=jsonl(*ROWS), fewshot=1, fewshot_path=shots).fingerprint()
    assert (set(found), set(found["item_files"])) == ({"item_files", "reading"}, {"items", "fewshot"})


def test_a_run_that_read_answers_by_other_rules_is_not_resumed(jsonl):
    path = jsonl(*ROWS)
    assert "reading" not in Generation(path=path).fingerprint()
    for changed in ({"match": Match.contains}, {"normalize": [Normalize.punctuation]}):
        assert Generation(path=path, **changed).fingerprint()["reading"] == 2
    newer: Any = ({"match": Match.numeric}, {"normalize": [Normalize.number]}, {"extract": "{number}"})
    for changed in newer:
        assert Generation(path=path, **changed).fingerprint()["reading"] == 3


@pytest.mark.parametrize(
    ("answer", "changed", "reason"),
    [
        ("", {}, "match=exact_match needs a text"),
        (" ", {"match": Match.contains}, "match=contains needs a text"),
        ("!", {"match": Match.contains, "normalize": [Normalize.punctuation]}, "match=contains needs a text"),
        ("seven", {"match": Match.numeric}, "match=numeric needs a number"),
        ("1,2", {"match": Match.numeric}, "match=numeric needs a number"),
        (math.nan, {}, "a value is nan"),
        (math.inf, {"match": Match.numeric}, "a value is inf"),
    ],
)
def test_a_target_that_no_answer_can_equal_is_refused(jsonl, answer, changed, reason):
    task = Generation(path=jsonl({"prompt": "x", "answer": answer}), **changed)
    with pytest.raises(TaskError, match=r"items\.jsonl:1: ") as refused:
        list(task.samples("t", "m"))
    assert reason in str(refused.value)


def test_booleans_are_written_as_in_json(jsonl):
    (sample,) = Generation(path=jsonl({"prompt": True, "answer": False})).samples("t", "m")
    assert (sample.requests[0].body["prompt"], sample.target) == ("true", "false")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit", 0),
        ("fewshot", -1),
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("extract", "("),
        ("extract", {}),
        ("extract", {"a,b": "x"}),
        ("extract", {"a": {"regex": "x", "pik": "last"}}),
    ],
)
def test_bad_settings_are_named(key, value):
    with pytest.raises(UserError, match=key):
        Generation(**{key: value})


STRICT = {"regex": r"#### (\-?[0-9\.\,]+)", "pick": "first"}
FLEXIBLE = {"regex": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "pick": "last"}
GSM8K = {
    "extract": {"strict-match": STRICT, "flexible-extract": FLEXIBLE},
    "fallback": "[invalid]",
    "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"],
    "normalize": ["lower"],
}
SAID = ["#### 1,200", "It is $1,200.", "so 7\n#### 5", "none", "#### 5. Then 6 and 1200", "#### -1200", "####  1200"]


@pytest.mark.parametrize("text", SAID)
def test_the_two_filters_of_gsm8k_score_as_in_lm_eval(completion, text):
    """Compares with RegexFilter and exact_match of lm_eval."""
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    from lm_eval.api.metrics import exact_match_hf_evaluate

    how: dict[str, Any] = {**GSM8K, "normalize": [Normalize.lower]}
    target = "He has 1000 + 200.\n#### 1200"
    found = score(Generation(**how), Sample("t", "1", (), target), completion(text))
    for name, part, group in (("strict-match", STRICT, 0), ("flexible-extract", FLEXIBLE, -1)):
        [[taken]] = extraction.RegexFilter(part["regex"], group).apply([[text]], [{}])
        theirs = exact_match_hf_evaluate([taken], [target], how["regexes_to_ignore"], ignore_case=True)
        assert found.scores[f"exact_match,{name}"] == theirs["exact_match"], name


def test_the_first_extraction_decides_whether_a_sample_is_read(completion):
    how = {"extract": {"strict": r"#### (\d+)", "loose": "{number}"}}
    assert scored(completion("4"), **how)[0] is Status.unparsed
    assert scored(completion("#### 4 or 5"), **how)[2] == {"exact_match,strict": 1.0, "exact_match,loose": 0.0}
    other = {"extract": {"loose": "{number}", "strict": r"#### (\d+)"}}
    assert scored(completion("4"), **other) == (Status.scored, {"loose": "4"}, {"exact_match,loose": 1.0})


def test_several_metrics(completion):
    task = Generation(match=["exact_match", "f1", "numeric"], normalize=[Normalize.squad])
    assert [metric.name for metric in task.metrics] == ["exact_match", "f1", "numeric"]
    found = score(task, Sample("t", "1", (), "4"), completion("the 4 birds"))
    assert found.scores == {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}, "numeric has no value: it is no number"


def test_an_answer_without_a_prediction_is_wrong_with_a_fallback(completion):
    for text in ("", "no digits"):
        assert scored(completion(text), extract="{number}", fallback="[invalid]")[2] == {"exact_match": 0.0}
    assert scored(completion("words"), match="numeric", fallback="[invalid]")[2] == {"numeric": 0.0}


def test_regular_expressions_as_targets_are_compared_as_written(completion):
    how = {"match": "regex", "normalize": [Normalize.lower]}
    assert scored(completion("In JULY 1969"), r"july\s\d{4}", **how)[2] == {"regex": 1.0}


def test_a_target_that_is_no_regular_expression_is_refused(jsonl):
    with pytest.raises(TaskError, match="match=regex needs a regular expression"):
        list(Generation(path=jsonl({"prompt": "x", "answer": "("}), match=["exact_match", "regex"]).samples("t", "m"))
