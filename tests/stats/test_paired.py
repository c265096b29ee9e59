from __future__ import annotations

import pytest

from launcher.stats.paired import holm, sign_test, t_test


# Reference values of scipy.stats.t.sf and scipy.stats.binomtest, version 1.17.
@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(0.0, 5, 1.0), (0.1, 1, 0.936548965138893), (-2.5, 3, 0.08770664700806556), (3.0, 10, 0.013343655022569572),
     (-4.0, 100, 0.00012152364430076177), (1.96, 9999, 0.0500235230052102), (12.0, 50, 2.462380625332543e-16)],
)  # fmt: skip
def test_t_test(t, freedom, p):
    assert t_test(t, freedom) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    ("gains", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 2, 0.453125), (250, 300, 0.036578745549102676), (0, 40, 1.8189894035458565e-12),
     (5000, 4800, 0.04440414879984631)],
)  # fmt: skip
def test_sign_test(gains, losses, p):
    assert sign_test(gains, losses) == pytest.approx(p, rel=1e-12)
    assert sign_test(losses, gains) == sign_test(gains, losses)


def test_holm_adjusts_in_steps_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
