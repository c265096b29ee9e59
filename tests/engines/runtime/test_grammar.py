"""Grammars: the tokens that are drawn from any logits spell a text of the grammar, and then end it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from llguidance import LLMatcher

from launcher.core.errors import GrammarRefused
from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.base import Sampling
from launcher.engines.runtime.grammar import Grammars
from launcher.engines.runtime.sampling import Sampler, SampleRequest, choose

TOKENIZER = ByteTokenizer()
VOCAB = TOKENIZER.vocab_size
GRAMMARS = Grammars(TOKENIZER, VOCAB)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [1, 2.5, None]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def written(grammar: str, seed: int, temperature: float, beside: int = 0) -> str:
    """Return the text that random logits spell, with ``beside`` rows without a grammar in each batch."""
    generator = torch.Generator().manual_seed(seed)
    sampler = Sampler(Sampling(temperature=temperature, seed=seed), GRAMMARS.constraint(grammar))
    free = [Sampler(Sampling(temperature=0)) for _ in range(beside)]
    tokens: list[int] = []
    while not tokens or tokens[-1] not in TOKENIZER.eos_ids:
        rows = torch.randn(1 + beside, VOCAB, generator=generator)
        kept = rows.clone()
        found = choose(rows, [], [SampleRequest(s) for s in (sampler, *free)], VOCAB)
        assert rows.equal(kept)
        assert [t.token for t in found[1:]] == rows[1:].argmax(-1).tolist()
        tokens.append(found[0].token)
        assert len(tokens) < 500
    return b"".join(map(TOKENIZER.token_bytes, tokens)).decode()


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_schema_is_held_to(seed: int, temperature: float) -> None:
    schema = LLMatcher.grammar_from_json_schema(PERSON, None, {"whitespace_flexible": False})
    found = json.loads(written(schema, seed, temperature, beside=2))
    assert found.keys() == {"name", "age"}
    assert len(found["name"]) <= 5
    assert found["age"] in (1, 2.5, None)


@pytest.mark.parametrize("seed", range(5))
def test_a_regular_expression_is_held_to(seed: int) -> None:
    assert re.fullmatch(r"[0-9]{2}é(x|yy)", written(LLMatcher.grammar_from_regex(r"[0-9]{2}é(x|yy)"), seed, 1.0))


def test_a_text_may_go_on_while_the_grammar_allows_it() -> None:
    """The end of the text is one of the tokens that may come next, and no more likely than by the model."""
    lengths = {len(written(LLMatcher.grammar_from_regex("a+"), seed, 1.0)) for seed in range(20)}
    assert len(lengths) > 1


def test_the_log_probability_is_the_models_own() -> None:
    row = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(Sampling(temperature=0, logprobs=1), GRAMMARS.constraint(LLMatcher.grammar_from_regex("b")))
    (found,) = choose(row, [], [SampleRequest(sampler)], VOCAB)
    assert TOKENIZER.token_bytes(found.token) == b"b"
    assert found.logprob == pytest.approx(row.log_softmax(-1)[0, found.token].item(), abs=1e-6)


def test_a_token_against_the_grammar_is_an_error_that_stays() -> None:
    constraint = GRAMMARS.constraint(LLMatcher.grammar_from_regex("ab"))
    constraint.accept(TOKENIZER.encode("b")[0])
    assert constraint.error
    assert constraint.allowed().all()


def test_a_grammar_that_is_none_is_refused() -> None:
    with pytest.raises(GrammarRefused, match="unclosed"):
        GRAMMARS.constraint(LLMatcher.grammar_from_regex("[a"))


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('start: "x" T\nT: /a/ & /b/\n', "no text can go on"),
        ('start: "x" b\nb: "y" b\n', "has no end, or is too large"),
        ("start: /x(a{1000}){1000}/\n", "has no end, or is too large"),
    ],
)
def test_a_grammar_that_cannot_go_on_says_why_without_the_parsers_state(grammar: str, said: str) -> None:
    constraint = GRAMMARS.constraint(grammar)
    for _ in range(9):
        first = constraint.allowed().nonzero()[0].item()
        if constraint.error:
            break
        constraint.accept(int(first))
    assert constraint.error
    assert said in constraint.error
    assert "state" not in constraint.error
