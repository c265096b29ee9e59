"""Sums of lm-evaluation-harness' own aggregations: the same numbers, and its standard errors."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest

from launcher.core.errors import UserError
from launcher.stats.clusters import Clusters
from launcher.stats.resampling import Statistic, resamples
from launcher.tasks import corpus

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "one", "dog", "ran", "to", "my", "house", "by", "sea"]
COUNT = 40


def texts(several: bool = False) -> list[list[Any]]:
    draw, found = Random(5), []
    for _ in range(COUNT):
        right = [draw.choice(WORDS) for _ in range(8)]
        said = [word if draw.random() < 0.7 else draw.choice(WORDS) for word in right]
        other = [" ".join(right), " ".join(reversed(right))]
        found.append([other if several else other[0], [" ".join(said)] if several else " ".join(said)])
    return found


def likelihoods() -> list[float]:
    draw = Random(6)
    return [-draw.expovariate(1) for _ in range(COUNT)]


VALUES: dict[str, list[Any]] = {
    "perplexity": likelihoods(),
    "weighted_perplexity": [[10 * value, 1 + number % 4] for number, value in enumerate(likelihoods())],
    "bits_per_byte": [[10 * value, 1 + number % 4] for number, value in enumerate(likelihoods())],
    "f1_score": [[Random(n).randint(0, 1), Random(n + 1).randint(0, 1)] for n in range(COUNT)],
    "matthews_corrcoef": [[n % 2, int(Random(n).random() < 0.3 + 0.4 * (n % 2))] for n in range(COUNT)],
    "bleu": texts(),
    "chrf": texts(),
    "chrfpp": texts(),
    "ter": texts(),
    "bleu of several references": texts(several=True),
}
WITH_ERROR = {"perplexity", "f1_score", "matthews_corrcoef", "bleu", "chrf", "chrfpp", "ter"}
"""The aggregations of which lm-evaluation-harness gives a standard error."""


def named(name: str) -> Statistic:
    return corpus.statistic(f"lm_eval.api.metrics:{name.split()[0]}")


def whole(statistic: Statistic, values: list[Any]) -> float:
    assert statistic.sums is not None
    rows = np.asarray(statistic.sums.rows(values), float)
    return float(statistic.sums.value(rows.sum(axis=0, keepdims=True))[0])


@pytest.mark.parametrize("name", VALUES)
def test_sums_give_lm_evals_number(name: str) -> None:
    statistic = named(name)
    assert whole(statistic, VALUES[name]) == pytest.approx(statistic(VALUES[name]), rel=1e-12)


@pytest.mark.parametrize("name", ["f1_score", "matthews_corrcoef"])
@pytest.mark.parametrize("values", [[[0, 0]] * 4, [[1, 1]] * 4, [[1, 0]] * 4, [[0, 1]] * 4, [[0, 1], [1, 1]]])
def test_the_sums_of_labels_hold_where_a_case_is_missing(name: str, values: list[Any]) -> None:
    statistic = named(name)
    assert whole(statistic, values) == pytest.approx(statistic(values), abs=1e-12)


def test_more_than_two_labels_have_no_sums() -> None:
    values = [[n % 3, (n * n) % 3] for n in range(30)]
    statistic = named("matthews_corrcoef")
    assert statistic.sums is not None
    assert statistic.sums.rows(values) is None
    assert resamples(statistic, [Clusters.of((str(n), value) for n, value in enumerate(values))]) is not None


@pytest.mark.parametrize("name", sorted(WITH_ERROR))
def test_the_error_is_lm_evals_but_for_the_draws(name: str) -> None:
    from lm_eval.api import metrics

    (found,) = resamples(named(name), [Clusters.of((str(n), value) for n, value in enumerate(VALUES[name]))])
    times = 60 if name in ("bleu", "chrf", "chrfpp", "ter") else 400
    draw, values = Random(1), [tuple(value) if isinstance(value, list) else value for value in VALUES[name]]
    drawn = [getattr(metrics, name)(draw.choices(values, k=COUNT)) for _ in range(times)]
    of_lm_eval = metrics.sample_stddev(drawn)  # as its bootstrap_stderr
    assert float(np.std(found, ddof=1)) == pytest.approx(of_lm_eval, rel=4 / math.sqrt(2 * times))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("os:system", "in no installed package"),
        ("launcher.core.files:replace", "in no installed package"),
        ("launcher.tasks_of_mine:f", "in no installed package"),
        ("lm_eval.api.metrics:gone", "is not in this version of lm_eval"),
        ("lm_eval.tasks.gone:f", "cannot be imported"),
    ],
)
def test_a_file_names_no_code_but_that_of_tasks(function: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        corpus.statistic(function)
