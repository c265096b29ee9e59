"""An honest answer, in the shape of any server, passes; one that contradicts itself or the request does not."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.core import prompt_logprobs, responses
from launcher.core.prompt_logprobs import Misaligned, check_offsets, not_echoed, spans
from launcher.core.responses import NO_FINISH, Fault, check, check_stream, error_message, refuses, token_count
from launcher.core.types import Json, Request, Response, Sample, Status
from launcher.tasks.multiple_choice import MultipleChoice
from tests.fuzzing import examples
from tests.recorded import (
    CHOICES,
    CONTENT,
    CONTEXT,
    ECHOES,
    GENERATED,
    answered,
    chat,
    completion,
    likelihoods,
    said,
    told,
)
from tests.scoring import score

PROMPTS = tuple(CONTEXT + choice for choice in CHOICES)
ASKED = likelihoods(*PROMPTS)


def fault(request: Request, body: Json, status: int = 200) -> str | None:
    return check(request, Response(status, body)).fault


@pytest.mark.parametrize("name", GENERATED)
def test_an_honest_answer_passes(name: str) -> None:
    request, body = GENERATED[name]
    found = check(request, Response(200, body))
    assert (found.fault, found.notes) == (None, ())


@pytest.mark.parametrize("name", ECHOES)
def test_the_likelihoods_of_an_honest_echo_are_those_of_the_characters(name: str) -> None:
    """In every shape: the tokens of the choice are those that begin in it, or reach into it."""
    body = ECHOES[name](*PROMPTS)
    assert fault(ASKED, body) is None
    task = MultipleChoice(path="x", prefix="")
    sample = Sample("t", "1", (ASKED,), {"index": 0, "text": CHOICES[0], "choices": list(CHOICES)})
    found = score(task, sample, Response(200, body)).prediction["loglikelihoods"]
    for prompt, choice, seen, text in zip(PROMPTS, body["choices"], found, CHOICES, strict=True):
        logprobs = choice["logprobs"]
        taken = spans(logprobs["tokens"], choice["text"], len(prompt))
        wanted = [
            v for v, (s, e) in zip(logprobs["token_logprobs"], taken, strict=False) if max(s + 1, e) > len(CONTEXT)
        ]
        assert seen == pytest.approx(math.fsum(wanted))
        assert len(wanted) >= len(text.split())


BODY = answered("text_completion", [said("4")])
ECHO = ECHOES["ours"](*PROMPTS)
Change = Callable[[Json], object]


def changed(body: Json, change: Change) -> Json:
    body = copy.deepcopy(body)
    change(body)
    return body


def first(body: Json) -> Json:
    return body["choices"][0]


def lists(body: Json) -> Json:
    return body["choices"][0]["logprobs"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: first(b).update(finish_reason="abort"), "finish_reason is 'abort'"),
        (lambda b: first(b).update(finish_reason="error"), "finish_reason is 'error'"),
        (lambda b: first(b).update(finish_reason="\x1b[31mSTOP"), "finish_reason is '\\\\x1b"),
        (lambda b: first(b).update(finish_reason=1), "finish_reason is 1"),
        (lambda b: first(b).update(finish_reason=["stop"]), "finish_reason is"),
        (lambda b: first(b).update(index=1), "indices"),
        (lambda b: first(b).update(index=False), "indices"),
        (lambda b: first(b).update(index="0"), "indices"),
        (lambda b: first(b).pop("index"), "indices"),
        (lambda b: b["choices"].append(said("5")), "2 choices, expected 1"),
        (lambda b: b["choices"].clear(), "0 choices"),
        (lambda b: b.update(choices=[3]), "not an object"),
        (lambda b: b.update(choices={"0": said("4")}), "no list"),
        (lambda b: b.pop("choices"), "no list"),
        (lambda b: b.update(error={"message": "CUDA error"}), "CUDA error"),
        (lambda b: b.update(error="out of memory"), "out of memory"),
        (lambda b: b.update(error={}), "the answer has an 'error' without a message: {}"),
        (lambda b: first(b).update(error={"code": 5}), "a choice has an 'error' without a message: {'code': 5}"),
        (lambda b: first(b).update(error={"message": "provider"}), "provider"),
        (lambda b: first(b).pop("text"), "no text"),
        (lambda b: first(b).update(text=4), "integer, expected string"),
        (lambda b: first(b).update(text=["4"]), "array, expected string"),
        (lambda b: first(b).update(logprobs=[]), "array, expected object"),
        (lambda b: first(b).update(logprobs={"tokens": ["4"], "token_logprobs": [0.5]}), "not above 0"),
        (lambda b: first(b).update(logprobs={"tokens": ["4"], "token_logprobs": ["n/a"]}), "expected a number"),
        (lambda b: first(b).update(logprobs={"tokens": ["4"], "token_logprobs": [True]}), "expected a number"),
        (lambda b: first(b).update(logprobs={"tokens": ["4"], "token_logprobs": []}), "same length"),
        (lambda b: first(b).update(logprobs={"content": [{"token": "4", "logprob": 10**400}]}), "not above 0"),
        (lambda b: first(b).update(logprobs={"content": [{"token": "4", "logprob": -(10**400)}]}), "finite"),
        (lambda b: first(b).update(logprobs={"content": 5}), "list of objects"),
        (lambda b: first(b).update(logprobs={"content": [{"logprob": -1, "top_logprobs": [{"logprob": -2}]}]}), "best"),
    ],
)  # fmt: skip
def test_a_faulty_generation_fails(change: Change, reason: str) -> None:
    assert fault(completion(), BODY) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fault(completion(), changed(BODY, change)))


def constant(body: Json) -> None:
    for choice in body["choices"]:
        values = choice["logprobs"]["token_logprobs"]
        values[1:] = [-1.0] * (len(values) - 1)
        choice["logprobs"]["top_logprobs"] = None


def counting_bytes(body: Json) -> None:
    for choice in body["choices"]:
        prefix = (choice["text"][:offset] for offset in choice["logprobs"]["text_offset"])
        choice["logprobs"]["text_offset"] = [len(text.encode()) for text in prefix]


def counting_utf16(body: Json) -> None:
    for choice in body["choices"]:
        choice["logprobs"]["text_offset"] = [offset + (offset > 9) for offset in choice["logprobs"]["text_offset"]]


def shifted(body: Json) -> None:
    values = lists(body)["token_logprobs"]
    values[1:] = [values[-1], *values[1:-1]]


def other_tokens(body: Json) -> None:
    lists(body)["tokens"][3] = "X"


def one_token_less(body: Json) -> None:
    for values in lists(body).values():
        del values[5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (constant, "the server did not compute them"),
        (counting_bytes, "text_offset"),
        (counting_utf16, "text_offset"),
        (shifted, "in one list and"),
        (other_tokens, "tokens and text differ"),
        (one_token_less, "tokens and text differ"),
        (lambda b: b["choices"].pop(), "1 choices, expected 2"),
        (lambda b: first(b).update(index=1), "indices"),
        (lambda b: first(b).update(logprobs=None), "no 'logprobs'"),
        (lambda b: first(b).update(text="!"), "ignores 'echo'"),
        (lambda b: first(b).update(text=None), "ignores 'echo'"),
        (lambda b: lists(b).pop("tokens"), "same length"),
        (lambda b: lists(b).update(tokens=5), "same length"),
        (lambda b: lists(b)["tokens"].pop(), "same length"),
        (lambda b: lists(b).update(text_offset=None), "'text_offset' is not a list"),
        (lambda b: lists(b)["text_offset"].pop(), "'text_offset' is not a list"),
        (lambda b: lists(b)["top_logprobs"].pop(0), "'top_logprobs' is not a list"),
        (lambda b: lists(b)["token_logprobs"].__setitem__(0, -0.1), "must be null"),
        (lambda b: lists(b)["token_logprobs"].__setitem__(7, None), "expected a number"),
        (lambda b: lists(b)["token_logprobs"].__setitem__(7, 0.5), "not above 0"),
        (lambda b: lists(b)["token_logprobs"].__setitem__(7, -1e300), "finite"),
        (lambda b: lists(b)["token_logprobs"].__setitem__(7, -0.001), "above that of the best|in one list"),
        (lambda b: lists(b)["text_offset"].__setitem__(7, 7.0), "not an integer"),
        (lambda b: lists(b)["text_offset"].__setitem__(1, True), "not an integer"),
        (lambda b: lists(b)["tokens"].__setitem__(7, None), "not a text"),
        (lambda b: lists(b)["top_logprobs"].__setitem__(7, [1]), "expected an object"),
        (lambda b: lists(b)["top_logprobs"].__setitem__(7, {"x": "y"}), "expected a number"),
    ],
)  # fmt: skip
def test_a_faulty_echo_fails(change: Change, reason: str) -> None:
    assert fault(ASKED, ECHO) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fault(ASKED, changed(ECHO, change)))


@pytest.mark.parametrize("body", [None, [], "x", 5, True, {}, {"choices": None}, {"object": "error", "message": "no"}])
@pytest.mark.parametrize("request_", [completion(), chat(), ASKED])
def test_another_shape_fails(request_: Request, body: Json) -> None:
    assert fault(request_, body)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user\na\nb", "the text begins with the prompt without its special tokens"),
        ("said", "the server ignores 'echo'"),
        (None, "the server ignores 'echo'"),
        ("<|im_start|>user A", r"the text has ' A' where the prompt goes on with '\na<|im_end|>\nb'"),
    ],
)
def test_an_echo_of_something_else_is_told_from_none(text: Json, reason: str) -> None:
    asked = "<|im_start|>user\na<|im_end|>\nb"
    assert reason in str(not_echoed(text, asked))
    assert not_echoed(f"{asked} and more", asked) is None


def test_a_status_of_an_unfinished_answer_fails() -> None:
    assert fault(completion(), BODY, status=206) == "HTTP 206 is not a complete answer"


def test_a_completion_is_no_chat_and_a_chat_no_completion() -> None:
    assert fault(chat(), BODY) == "a choice has no message"
    assert fault(completion(), answered("chat.completion", [told("4")])) == "a choice has no text"


@pytest.mark.parametrize("finish", [None, ...])
def test_a_missing_finish_is_noted(finish: object) -> None:
    body = changed(
        BODY, lambda b: first(b).pop("finish_reason") if finish is ... else first(b).update(finish_reason=None)
    )
    found = check(completion(), Response(200, body))
    assert (found.fault, found.notes) == (None, (NO_FINISH,))


@pytest.mark.parametrize(
    ("asked", "answer", "same"),
    [
        ("m", "m", True), ("gpt-4o", "gpt-4o-2024-08-06", True), ("llama3", "llama3:latest", True), ("m", None, True),
        ("claude", "claude@20240620", True), ("m", "other", False), ("m", "m-1000", False), ("m", "M", False),
        ("step-1000", "step-2000", False), ("m", 5, False), ("llama-3", "llama-3-8b", False), ("m", "", False),
    ],
)  # fmt: skip
def test_another_model_is_noted(asked: str, answer: Json, same: bool) -> None:
    found = check(completion(model=asked), Response(200, BODY | {"model": answer}))
    assert found.fault is None
    assert bool(found.notes) is not same


@pytest.mark.parametrize(
    "usage",
    [None, "n/a", [], 5, {}, {"completion_tokens": "n/a"}, {"completion_tokens": -3}, {"completion_tokens": 10**30},
     {"completion_tokens": True}, {"completion_tokens": 2.5}, {"completion_tokens": [7]}, {"completion_tokens": None}],
)  # fmt: skip
def test_usage_may_be_anything(usage: Json) -> None:
    assert fault(completion(), BODY | {"usage": usage}) is None
    assert token_count(usage, "completion_tokens") is None
    assert token_count({"completion_tokens": 7}, "completion_tokens") == 7


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": None}}, True),
        ({"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}, True),
        ({"error": {"message": "HTTP 403: <html>", "type": "http_error"}}, False),
        ({"error": "Forbidden"}, False), ({"message": "Forbidden"}, False), ({"detail": "no"}, False),
        ({"error": {"message": 5}}, False), ({"error": {}}, False), ("no", False), (None, False), ([], False),
    ],
)  # fmt: skip
def test_only_an_error_of_the_api_is_a_refusal(body: Json, refused: bool) -> None:
    assert refuses(Response(403, body)) is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "too long"}}, "too long"), ({"object": "error", "message": "too long"}, "too long"),
        ({"error": "Forbidden"}, "Forbidden"), ({"error": {"message": {"a": 1}}}, "{'a': 1}"),
        ({"error": {}}, None), ({"error": {"message": ""}}, None), ({}, None), ("no", None), (None, None), ([1], None),
    ],
)  # fmt: skip
def test_an_error_has_one_message_in_whichever_shape(body: Json, message: str | None) -> None:
    assert error_message(body) == message


@pytest.mark.parametrize("finish", ["stop", "length", "stop_sequence", "eos_token"])
def test_the_finish_reasons_of_openai_and_tgi_are_known(finish: str) -> None:
    body = copy.deepcopy(BODY)
    first(body)["finish_reason"] = finish
    assert fault(completion(), body) is None
    assert check_stream([body]) is None


def test_a_stream_with_a_strange_end_is_not_whole() -> None:
    piece = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    assert check_stream([piece, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}]) is None
    assert check_stream([piece, {"choices": [{"index": 0, "finish_reason": "abort"}]}])
    assert check_stream([piece, {"error": {"message": "dead"}}])
    assert check_stream([piece, {"choices": [], "error": "dead"}])
    assert check_stream(["x"])


def paths(value: Json, path: tuple[Json, ...] = ()) -> list[tuple[Json, ...]]:
    """Return the path of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in paths(item, (*path, key)))] if path else [
        p for key, item in inner for p in paths(item, (key,))
    ]  # fmt: skip


STRANGE: tuple[Json, ...] = (
    None,
    True,
    False,
    7,
    -(2**40),
    10**30,
    -(10**400),
    1e308,
    -1e308,
    "",
    "n/a",
    "\x1b[2J\u202e",
    [],
    {},
    [[]],
    {"a": 1},
)
"""None of these is a number that a log-probability may have: of two such numbers no check can tell the right one."""


@st.composite
def mutations(draw: st.DrawFn, body: Json, most: int = 1) -> Json:
    """Change a place of an answer, or several: delete it, double it, negate it, or put something strange there."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(paths(body)))
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        key, kind = path[-1], draw(st.sampled_from(["delete", "double", "negative", "strange", "strange"]))
        if kind == "delete":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == "negative" and isinstance(holder[key], int | float):
            holder[key] = -holder[key]
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
        if not paths(body):
            break
    return body


TASK = MultipleChoice(path="x", prefix="")
SAMPLE = Sample("t", "1", (ASKED,), {"index": 0, "text": CHOICES[0], "choices": list(CHOICES)})
HONEST = {name: score(TASK, SAMPLE, Response(200, make(*PROMPTS))) for name, make in ECHOES.items()}


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_a_changed_echo_fails_or_has_the_honest_score(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(ECHOES)))
    body = data.draw(mutations(ECHOES[name](*PROMPTS)))
    if fault(ASKED, body) is None:
        found = score(TASK, SAMPLE, Response(200, body))
        assert found.status is Status.failed or found.prediction == HONEST[name].prediction


@settings(max_examples=examples(50), deadline=None)
@given(st.data())
def test_a_changed_generation_fails_or_has_the_honest_text(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GENERATED)))
    request, body = GENERATED[name]
    found = data.draw(mutations(body, most=3))
    finding = check(request, Response(200, found))
    json.dumps(found.get("choices"))
    if finding.fault is None:
        assert isinstance(found["choices"], list)
        assert sorted(choice["index"] for choice in found["choices"]) == list(range(len(body["choices"])))


CUTS = st.lists(st.integers(1, 4), min_size=40, max_size=40)


@settings(max_examples=examples(50), deadline=None)
@given(st.text(st.sampled_from("ab é東🙂 \n"), min_size=1, max_size=14), CUTS, st.sampled_from(["bytes", "parts"]))
def test_tokens_of_any_bytes_find_their_characters(text: str, cuts: list[int], style: str) -> None:
    """Cut the text's bytes anywhere; each token is named in OpenAI's way, or decoded by itself."""
    data = text.encode()
    tokens: list[Json] = []
    truth: list[Json] = []
    while data:
        truth.append(data[: cuts[len(tokens)]])
        data = data[len(truth[-1]) :]
        tokens.append(name_of(truth[-1], style))
    try:
        found = spans([*tokens, "!"], text + "!", len(text))
    except Misaligned:
        assert style == "parts"  # what is shown need not be enough
        return
    assert len(found) == len(tokens)
    done = b""
    for (start, end), piece in zip(found, truth, strict=True):
        begun, done = len(done.decode(errors="ignore")), done + piece
        ended = len(done.decode(errors="ignore"))
        assert (start, end) == (begun, ended) if style == "bytes" else start <= begun and end >= ended
    check_offsets([start for start, _ in found], tokens, found)


def name_of(piece: bytes, style: str) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in piece) if style == "bytes" else piece.decode(errors="replace")


def test_the_check_is_of_the_sent_request() -> None:
    """A list of prompts, several choices for each, and prompts of token ids."""
    body = answered("text_completion", [said("x", i) for i in range(4)])
    assert fault(completion(prompt=["a", "b"], n=2), body) is None
    assert fault(completion(prompt=[[1, 2], [3]], n=2), body) is None
    assert fault(completion(prompt=[1, 2], n=4), body) is None
    assert fault(completion(prompt=[1, 2], n=2), body) == "the answer has 4 choices, expected 2"
    assert fault(replace(ASKED, body=dict(ASKED.body) | {"logprobs": None, "prompt": PROMPTS[0]}), answered(
        "text_completion", [said(PROMPTS[0] + "!", finish="length")])) is None  # fmt: skip
    assert CONTENT["content"]


PIECES = st.sampled_from(
    ["a", " b", "bc", "\u2581d", "\ufffd", "", "<s>", "<0xC3>", "é", " ", "\n", "bytes:\\xc3", "🙂"]
)


def read_one_by_one(tokens: list[str], text: str, end: int) -> list[tuple[int, int]] | str:
    reader = prompt_logprobs._Reader(text, end)
    before = prompt_logprobs._in_front(tokens, text[:end])
    reader.skip(before)
    try:
        for token in tokens[before:]:
            if reader.done():
                break
            reader.read(token)
        return reader.finish()
    except Misaligned as error:
        return str(error)


@given(st.lists(PIECES, max_size=8), st.integers(0, 12), st.text("ab <s>\ufffdé", max_size=3), st.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_tokens_that_join_to_the_prompt_are_read_as_one_by_one(tokens, end, more, joins) -> None:
    text = "".join(tokens) + more if joins else more + "".join(tokens)
    end = min(end, len(text))
    try:
        found: object = spans(tokens, text, end)
    except Misaligned as error:
        found = str(error)
    assert found == read_one_by_one(tokens, text, end)


NUMBERS = st.sampled_from(
    [-1.5, -2, 0, 1e-5, 0.5, -1e7, math.nan, math.inf, -math.inf, None, True, "x", -3.4028234663852886e38]
)


@given(st.lists(NUMBERS, max_size=5))
@settings(max_examples=examples(300), deadline=None)
def test_a_list_of_log_probabilities_is_refused_for_one_that_is_none(values) -> None:
    def message(check) -> str | None:
        try:
            check()
        except Fault as error:
            return str(error)
        return None

    each = [message(lambda v=v: responses._check_numbers([v], "n")) for v in values]
    assert message(lambda: responses._check_numbers(values, "n")) == next((m for m in each if m), None)


VALUES = st.sampled_from([-1.0, -2.0, -0.5])
NAMES = st.sampled_from("abc\ufffd")
ROWS = st.lists(st.tuples(NAMES, VALUES, st.none() | st.dictionaries(NAMES, VALUES, max_size=2)), max_size=4)


@given(ROWS, st.integers(0, 4), st.booleans())
@settings(max_examples=examples(300), deadline=None)
def test_alternatives_are_compared_row_by_row(rows, size, first_is_none) -> None:
    tokens, values, tops = ([row[i] for row in rows] for i in range(3))
    if first_is_none and values:
        values[0] = None
    expected = [fault for row in zip(tokens[:size], values, tops, strict=False) if (fault := responses._odd(*row))]
    assert responses._odd_rows(tokens[:size], values, tops) == expected


def four_choices(zero: bool) -> tuple[Request, dict[str, Json]]:
    """Return a request with four prompts that begin alike, and an honest answer; with ``zero``, one value is 0."""
    context, ends = [f" w{i}" for i in range(20)], ["a b", "a c", "d", "e f g"]
    choices = []
    for index, end in enumerate(ends):
        tokens = [*context, *(f" {word}" for word in end.split()), " x"]
        values = [None, *(-0.5 - i / 8 for i in range(1, len(tokens)))]
        values[3] = 0.0 if zero else values[3]
        tops = [None, *({token: value, "?": -9.0} for token, value in zip(tokens[1:], values[1:], strict=True))]
        offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
        logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
        choices.append({"index": index, "text": "".join(tokens), "logprobs": logprobs, "finish_reason": "length"})
    prompts = ["".join([*context, *(f" {word}" for word in end.split())]) for end in ends]
    body = {"model": "m", "prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True}
    return Request("/v1/completions", body), {"model": "m", "choices": choices}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("place", [3, 7, 19, 20])
@pytest.mark.parametrize(
    "change",
    [
        lambda lists, place: lists["token_logprobs"].__setitem__(place, -0.01),
        lambda lists, place: lists["token_logprobs"].__setitem__(place, False),
        lambda lists, place: lists["token_logprobs"].__setitem__(place, 2.0),
        lambda lists, place: lists["tokens"].__setitem__(place, " W"),
        lambda lists, place: lists["top_logprobs"].__setitem__(place, {"?": -99.0}),
        lambda lists, place: lists["top_logprobs"][place].__setitem__(lists["tokens"][place], False),
        lambda lists, place: lists["top_logprobs"][place].__setitem__("?", "text"),
        lambda lists, place: lists["text_offset"].__setitem__(place, True),
    ],
)
def test_a_fault_is_found_also_where_choices_begin_alike(change, place, zero, monkeypatch) -> None:
    request, honest = four_choices(zero)
    assert check(request, Response(200, honest)).fault is None
    for index in range(4):
        _, body = four_choices(zero)
        change(body["choices"][index]["logprobs"], place)
        found = check(request, Response(200, body))
        with monkeypatch.context() as whole:
            whole.setattr(responses, "FEW_TOKENS", 10**9)
            assert found == check(request, Response(200, body))
        assert found.fault
