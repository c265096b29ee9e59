from __future__ import annotations

import pytest

from launcher.api.logprobs import LOWEST, TokenWithOffset, for_chat, for_completions
from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.base import TokenLogprob


class Namesakes(ByteTokenizer):
    """Tokens whose names differ in case only have one name."""

    def token_name(self, token: int) -> str:
        return super().token_name(token).lower()


def completions(entry: TokenLogprob, tokenizer: ByteTokenizer | None = None) -> dict[str, object]:
    found = for_completions([TokenWithOffset(0, entry)], tokenizer or ByteTokenizer())
    return {name: values[0] for name, values in found.items()}


def test_a_first_prompt_token_has_null_in_both_lists() -> None:
    found = completions(TokenLogprob(ord("a")))
    assert found == {"tokens": "a", "token_logprobs": None, "top_logprobs": None, "text_offset": 0}


def test_the_chosen_token_is_among_its_alternatives_with_the_identical_number() -> None:
    value = -1.2345678901234567
    found = completions(TokenLogprob(ord("a"), value, ((ord("b"), -0.1),)))
    assert found["top_logprobs"] == {"b": -0.1, "a": value}
    assert found["token_logprobs"] is value


def test_two_tokens_of_one_name_do_not_overwrite_each_other() -> None:
    top = ((ord("A"), -0.1), (ord("a"), -2.0), (ord("b"), -3.0))
    found = completions(TokenLogprob(ord("a"), -2.0, top), Namesakes())
    assert found["top_logprobs"] == {"token_id:65": -0.1, "a": -2.0, "b": -3.0}


def test_of_two_alternatives_of_one_name_the_better_has_it() -> None:
    top = ((ord("A"), -0.1), (ord("a"), -2.0))
    found = completions(TokenLogprob(ord("b"), -5.0, top), Namesakes())
    assert found["top_logprobs"] == {"a": -0.1, "token_id:97": -2.0, "b": -5.0}


def test_minus_infinity_is_a_number_that_json_can_say() -> None:
    found = completions(TokenLogprob(1, float("-inf"), ((1, float("-inf")),)))
    assert found["token_logprobs"] == LOWEST
    assert found["top_logprobs"] == {"\x01": LOWEST}


def test_what_is_not_a_number_is_an_error() -> None:
    with pytest.raises(ArithmeticError, match="not a number"):
        completions(TokenLogprob(1, float("nan")))


def test_chat_lists_bytes_and_as_many_alternatives_as_asked() -> None:
    entry = TokenLogprob(0xC3, -0.5, ((0xC3, -0.5), (256, -1.0)))
    content = for_chat([TokenWithOffset(0, entry)], ByteTokenizer(), top=2)["content"]
    alternatives = [
        {"token": "bytes:\\xc3", "logprob": -0.5, "bytes": [0xC3]},
        {"token": "<|endoftext|>", "logprob": -1.0, "bytes": []},
    ]
    assert content == [alternatives[0] | {"top_logprobs": alternatives}]
    assert for_chat([TokenWithOffset(0, entry)], ByteTokenizer(), top=0)["content"][0]["top_logprobs"] == []
