from __future__ import annotations

import pytest

from launcher.api.request_schema import CompletionRequest
from launcher.api.sampling import check_range, choices, seed_of, token_limit
from launcher.asgi.errors import ApiError
from launcher.engines.base import Sampling
from launcher.engines.sampling_bounds import MAX_SEED


def body(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "p"} | fields)


def sampling(**fields: object) -> Sampling:
    return choices(body(**fields), [(1,)], [5], id="x", logprobs=None)[0].generation.sampling


def test_every_field_reaches_the_engine() -> None:
    found = sampling(
        temperature=0.5, top_p=0.25, top_k=7, seed=3, presence_penalty=1, frequency_penalty=-1, logit_bias={"9": 2},
        ignore_eos=True,
    )  # fmt: skip
    assert found == Sampling(5, 0.5, 0.25, 7, 3, 1.0, -1.0, {9: 2.0}, ignore_eos=True)


def test_top_p_zero_is_the_best_token_only() -> None:
    assert (sampling(top_p=0).top_p, sampling(top_p=0).top_k) == (1.0, 1)


def test_top_k_minus_one_is_off() -> None:
    assert sampling(top_k=-1).top_k == 0


def test_a_temperature_too_small_to_divide_by_is_greedy() -> None:
    assert sampling(temperature=1e-12).temperature == 0


def test_choices_are_numbered_prompt_by_prompt_and_have_seeds_of_their_own() -> None:
    found = choices(body(n=2, seed=7), [(1,), (2,)], [3, 4], id="x", logprobs=1, echoes=[(b"a",), (b"b",)])
    assert [c.index for c in found] == [0, 1, 2, 3]
    assert [c.generation.prompt for c in found] == [(1,), (1,), (2,), (2,)]
    assert [c.generation.sampling.max_tokens for c in found] == [3, 3, 4, 4]
    assert len({c.generation.sampling.seed for c in found}) == 4
    assert len({c.generation.id for c in found}) == 4
    assert all(c.generation.sampling.prompt_logprobs == 1 for c in found)


@pytest.mark.parametrize("seed", [0, 5, -1, MAX_SEED, -MAX_SEED - 1])
def test_seeds_are_in_range_and_differ(seed: int) -> None:
    found = [seed_of(seed, i) for i in range(50)]
    assert len(set(found)) == 50
    assert all(0 <= s <= MAX_SEED for s in found)
    assert found == [seed_of(seed, i) for i in range(50)]


def test_the_first_choice_has_the_seed_of_the_request() -> None:
    assert seed_of(42, 0) == 42


@pytest.mark.parametrize(
    ("fields", "prompt", "default", "limit"),
    [
        ({"max_tokens": 5}, 10, 16, 5),
        ({"max_completion_tokens": 5}, 10, 16, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 10, 16, 5),
        ({"max_tokens": 54}, 10, 16, 54),
        ({}, 10, 16, 16),
        ({}, 60, 16, 4),
        ({}, 10, None, 54),
    ],
)
def test_the_limit_is_what_was_asked_or_what_fits(
    fields: dict[str, int], prompt: int, default: int, limit: int
) -> None:
    assert token_limit(body(**fields), "prompt", prompt, 64, default) == limit


@pytest.mark.parametrize(
    ("fields", "prompt", "param", "words"),
    [
        ({"max_tokens": 55}, 10, "max_tokens", ["64", "10", "55"]),
        ({"max_tokens": 5}, 64, "prompt", ["64", "5"]),
        ({}, 64, "prompt", ["64"]),
        ({}, 1000, "prompt", ["64", "1000"]),
        ({"max_tokens": 0}, 10, "max_tokens", [">= 1", "0"]),
        ({"max_completion_tokens": 0}, 10, "max_completion_tokens", ["'max_completion_tokens'", ">= 1", "0"]),
        ({"max_completion_tokens": 99999}, 10, "max_completion_tokens", ["64", "10", "99999"]),
        ({"max_tokens": 0, "max_completion_tokens": 0}, 10, "max_completion_tokens", [">= 1", "0"]),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 10, "max_completion_tokens", ["1", "2"]),
    ],
)
def test_what_does_not_fit_is_refused_with_both_lengths(
    fields: dict[str, int], prompt: int, param: str, words: list[str]
) -> None:
    with pytest.raises(ApiError) as raised:
        token_limit(body(**fields), "prompt", prompt, 64, 16)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert all(word in str(raised.value) for word in words)


def test_scoring_needs_no_room_for_a_token() -> None:
    assert token_limit(body(max_tokens=0), "prompt", 64, 64, 16, lowest=0) == 0


@pytest.mark.parametrize("tokens", [[-1], [3, 257]])
def test_tokens_that_the_model_does_not_have_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ApiError, match="expected 0 to 256"):
        check_range(tokens, 257, "prompt")


@pytest.mark.parametrize(
    ("fields", "final_only"), [({}, True), ({"stream": True}, False), ({"stop": "\n"}, False), ({"n": 2}, True)]
)
def test_tokens_are_buffered_unless_the_client_or_a_stop_string_reads_them(
    fields: dict[str, object], final_only: bool
) -> None:
    found = choices(body(**fields), [(1,)], [5], id="x", logprobs=None)
    assert {choice.generation.final_only for choice in found} == {final_only}
