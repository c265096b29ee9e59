"""Choosing tokens: every row by its own settings, and log-probabilities that agree with themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from launcher.engines.base import Sampling, TokenLogprob
from launcher.engines.runtime.sampling import Sampler, SampleRequest, ScoreRequest, choose, most_likely

VOCAB = 40


def logits(rows: int, seed: int = 0, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def draws(*samplings: Sampling) -> list[SampleRequest]:
    return [SampleRequest(Sampler(s)) for s in samplings]


def drawn(rows: torch.Tensor, *samplings: Sampling, vocab: int = VOCAB) -> list[TokenLogprob]:
    return choose(rows, [], draws(*samplings), vocab)


def many(row: torch.Tensor, count: int, **sampling: Any) -> list[int]:
    """Draw ``count`` tokens from the same logits."""
    draw = SampleRequest(Sampler(Sampling(**{"seed": 1, **sampling})))
    return [choose(row, [], [draw], row.shape[1])[0].token for _ in range(count)]


def test_greedy_takes_the_best_and_its_logprob_is_the_first_alternative() -> None:
    rows = logits(6)
    found = drawn(rows, *[Sampling(temperature=0, logprobs=3)] * 6)
    assert [t.token for t in found] == rows.argmax(-1).tolist()
    for t, row in zip(found, rows.log_softmax(-1), strict=True):
        assert t.top[0] == (t.token, t.logprob)
        assert [p for _, p in t.top] == sorted((p for _, p in t.top), reverse=True)
        assert t.logprob == pytest.approx(row.max().item(), abs=1e-6)


def test_scores_are_log_softmax_of_the_targets() -> None:
    rows = logits(5)
    found = choose(rows, [ScoreRequest([1, 2], 0), ScoreRequest([3, 4, 5], 2)], [], VOCAB)
    expected = rows.log_softmax(-1)
    assert [t.token for t in found] == [1, 2, 3, 4, 5]
    assert [len(t.top) for t in found] == [0, 0, 2, 2, 2]
    for i, t in enumerate(found):
        assert t.logprob == pytest.approx(expected[i, t.token].item(), abs=1e-6)


def test_logprobs_are_the_models_own_before_temperature_penalty_and_bias() -> None:
    rows = logits(1)
    plain = rows.log_softmax(-1)[0]
    settings = Sampling(temperature=0.3, seed=3, logit_bias={7: 100.0}, presence_penalty=1.0, logprobs=0)
    (t,) = drawn(rows, settings)
    assert t.token == 7
    assert t.logprob == pytest.approx(plain[7].item(), abs=1e-6)


def test_half_precision_logits_are_scored_in_float32() -> None:
    rows = logits(1).bfloat16()
    (t,) = choose(rows, [ScoreRequest([3], 1)], [], VOCAB)
    assert t.logprob == pytest.approx(rows.float().log_softmax(-1)[0, 3].item(), abs=1e-6)


def test_more_alternatives_than_tokens_gives_them_all() -> None:
    (t,) = choose(logits(1), [ScoreRequest([3], 99)], [], VOCAB)
    assert len(t.top) == VOCAB


def test_padding_of_the_vocabulary_counts_but_is_never_shown() -> None:
    rows = logits(1)
    rows[0, 30:] = 50.0
    (t,) = drawn(rows, Sampling(temperature=0, logprobs=50), vocab=30)
    assert t.token < 30
    assert len(t.top) == 30
    assert t.logprob == pytest.approx(rows.log_softmax(-1)[0, t.token].item(), abs=1e-5)
    assert all(token < 30 for token in (drawn(rows, Sampling(seed=i), vocab=30)[0].token for i in range(20)))


def test_a_seeded_row_is_the_same_alone_and_in_a_mixed_batch() -> None:
    rows = logits(32)
    settings = [
        Sampling(
            temperature=[0.0, 0.5, 1.0, 2.0][i % 4],
            top_p=[1.0, 0.8, 0.3][i % 3],
            top_k=[0, 5, 1][i % 3 - 1],
            seed=i,
            presence_penalty=float(i % 2),
            logit_bias={i: 2.0} if i % 5 == 0 else {},
            logprobs=[None, 0, 4][i % 3],
        )
        for i in range(32)
    ]
    mixed = drawn(rows, *settings)
    for i, s in enumerate(settings):
        (alone,) = drawn(rows[i : i + 1], s)
        assert alone.token == mixed[i].token
        assert alone.top == mixed[i].top or alone.top == pytest.approx(mixed[i].top)


def test_the_next_token_of_a_row_comes_from_the_next_random_number() -> None:
    assert len(set(many(torch.zeros(1, 1000), 20))) > 15
    assert many(torch.zeros(1, 1000), 20) == many(torch.zeros(1, 1000), 20)
    assert many(torch.zeros(1, 1000), 20) != many(torch.zeros(1, 1000), 20, seed=2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_distribution(temperature: float) -> None:
    row = logits(1, vocab=6) / 3
    counts = torch.bincount(torch.tensor(many(row, 4000, temperature=temperature)), minlength=6) / 4000
    assert torch.allclose(counts, (row[0] / temperature).softmax(-1), atol=0.04)


def test_top_k_keeps_the_best() -> None:
    row = logits(1)
    best = set(row[0].topk(3).indices.tolist())
    assert set(many(row, 300, temperature=5.0, top_k=3)) == best
    assert set(many(row, 20, temperature=5.0, top_k=1)) == {row.argmax().item()}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    row = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert set(many(row, 300, top_p=0.79)) == {0, 1}
    assert set(many(row, 300, top_p=0.81)) == {0, 1, 2}
    assert set(many(row, 300, top_p=0.0)) == {0}
    assert set(many(row, 300, top_p=0.9999999)) == {0, 1, 2, 3}


def test_impossible_tokens_are_never_drawn() -> None:
    row = torch.full((1, 10), -torch.inf)
    row[0, 4] = 0.0
    assert set(many(row, 50)) == {4}


def test_penalties_count_generated_tokens_by_openais_definition() -> None:
    sampler = Sampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={1: 1.0, 99: 5.0}))
    for token in (1, 1, 2):
        sampler.record(token)
    assert sampler.offsets(VOCAB) == {1: 1.0 - 0.5 - 0.5, 2: -0.5 - 0.25}


def test_a_penalty_changes_what_greedy_repeats() -> None:
    row = torch.tensor([[1.0, 0.9, 0.0]])
    draw = SampleRequest(Sampler(Sampling(temperature=0, presence_penalty=0.5)))
    assert [choose(row, [], [draw], 3)[0].token for _ in range(3)] == [0, 1, 0]


def test_many_rows_are_scored_in_parts_without_a_seam() -> None:
    rows = logits(300)
    targets = [i % VOCAB for i in range(300)]
    found = choose(rows, [ScoreRequest(targets, 1)], [], VOCAB)
    expected = rows.log_softmax(-1)[range(300), targets]
    assert torch.allclose(torch.tensor([t.logprob for t in found]), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_most_likely_token_is_the_first_of_equal_ones(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 0.0, -1.0, 9.0], [-5.0, -4.0, -6.0, 7.0]], dtype=dtype)
    assert most_likely(rows[:, :3]) == [1, 0, 1]
