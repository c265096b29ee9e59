"""What is shortened in a line is whole again to the last character."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core import shared_texts
from launcher.core.records import from_line, to_line, to_whole_line
from launcher.core.types import Json
from tests.sample_records import made

START = "Question: où est 東京? " * 12
TOKENS = list(range(300))
TEXTS = st.builds(lambda start, rest: start + rest, st.sampled_from(["", START, START[:-9]]), st.text(max_size=4))
IDS = st.builds(
    lambda start, rest: start + rest, st.sampled_from([[], TOKENS]), st.lists(st.integers(0, 9), max_size=4)
)
ODD: st.SearchStrategy[Json] = st.sampled_from([None, 7, [], [None], {}, [True], "x"])
PROMPTS = st.one_of(
    TEXTS,
    IDS,
    st.lists(TEXTS, max_size=3),
    st.lists(IDS, max_size=3),
    ODD,
    st.lists(st.one_of(TEXTS, IDS, ODD), max_size=3),
)
LOGPROBS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.one_of(ODD, st.lists(st.one_of(TEXTS, ODD), max_size=3)),
        "text_offset": st.one_of(ODD, st.lists(st.one_of(st.integers(-1, 300), ODD), max_size=3)),
        "merged_tokens": st.one_of(ODD, st.integers(0, 300)),
    },
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.one_of(st.integers(-1, 3), ODD),
        "text": st.one_of(TEXTS, ODD),
        "logprobs": st.one_of(LOGPROBS, ODD),
    },
)
BODY = st.one_of(ODD, st.fixed_dictionaries({}, optional={"prompt": PROMPTS, "echo": st.booleans()}))
REQUEST = st.one_of(ODD, st.fixed_dictionaries({}, optional={"path": st.just("/v1/completions"), "body": BODY}))
RESPONSE = st.one_of(ODD, st.fixed_dictionaries({}, optional={"choices": st.one_of(ODD, st.lists(CHOICE, max_size=3))}))


def merged(prompt):
    return {"text_offset": [0, len(prompt)], "merged_tokens": 3}


def echoed(prompts, choices):
    request = {"path": "/v1/completions", "body": {"prompt": prompts, "echo": True}}
    return made(requests=(request,), responses=({"choices": choices},))


@st.composite
def echoes(draw):
    """Return a request and an answer to it that echoes each prompt."""
    prompts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    choices = [
        {
            "index": i,
            "text": prompt + "!",
            "logprobs": {"tokens": [prompt, "!"], "text_offset": [0, len(prompt)], "merged_tokens": 3},
        }
        for i, prompt in enumerate(prompts)
    ]
    body = {"prompt": draw(st.sampled_from([prompts, [TOKENS] * len(prompts)])), "echo": True}
    return {"path": "/v1/completions", "body": body}, {"choices": draw(st.permutations(choices))}


@given(st.lists(st.one_of(st.tuples(REQUEST, RESPONSE), echoes()), min_size=1, max_size=3))
def test_any_line_is_whole_again(pairs):
    requests, responses = (tuple(each) for each in zip(*pairs, strict=True))
    short, shared = shared_texts.shortened(requests, responses)
    assert shared_texts.whole(*short, shared) == (requests, responses)
    if isinstance(requests[0], list):  # no request, and a line could not tell it from several
        return
    record = made("t/a/0", requests=requests, responses=responses)
    assert from_line(to_line(record)) == from_line(to_whole_line(record))


def test_a_beginning_that_all_share_is_written_once():
    prompts = [START + choice for choice in "ABCD"]
    choices = [{"index": i, "text": prompt + "\n"} for i, prompt in enumerate(prompts)]
    record = made(
        requests=({"path": "/v1/completions", "body": {"prompt": prompts, "echo": True}},),
        responses=({"choices": choices},),
    )
    line = json.loads(to_line(record))
    assert line["shared"] == {"echo": True, "prompt": START}
    assert line["request"]["body"]["prompt"] == ["A", "B", "C", "D"]
    assert [choice["text"] for choice in line["response"]["choices"]] == ["\n"] * 4
    assert from_line(to_line(record)) == record


def test_token_ids_and_the_texts_that_echo_them_share_one_beginning_each():
    prompts = [[*TOKENS, n] for n in (7, 8)]
    choices = [{"index": i, "text": START + end} for i, end in enumerate("ab")]
    record = made(
        requests=({"path": "/v1/completions", "body": {"prompt": prompts, "echo": True}},),
        responses=({"choices": choices},),
    )
    assert json.loads(to_line(record))["shared"] == {"text": START, "prompt": TOKENS}
    assert from_line(to_line(record)) == record


def test_several_requests_share_one_beginning():
    body = {"prompt": START, "seed": 1}
    record = made(requests=({"body": body}, {"body": body | {"seed": 2}}), responses=({"choices": []}, None))
    line = json.loads(to_line(record))
    assert [request["body"]["prompt"] for request in line["request"]] == ["", ""]
    assert from_line(to_line(record)) == record


def test_a_short_line_is_as_it_was():
    record = made(requests=({"body": {"prompt": ["ab", "ac"]}},))
    assert to_line(record) == to_whole_line(record)


@pytest.mark.parametrize("shared", [1, [], {"prompt": 1}, {"prompt": "x", "echo": True}, {"text": [1]}])
def test_a_line_whose_shared_part_does_not_fit_is_damage(shared):
    request = {"path": "/v1/completions", "body": {"prompt": [1, 2], "echo": True}}
    line = json.loads(to_line(made(requests=(request,), responses=({"choices": [{"index": 0, "text": "x"}]},))))
    with pytest.raises(ValueError, match="not a sample's record"):
        from_line(json.dumps(line | {"shared": shared}).encode())
