from __future__ import annotations

import pytest

from launcher.stats.distributions import t_quantile, t_two_sided


# Reference values of scipy.stats.t.ppf(0.975, freedom), version 1.17.
@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706204736174694), (2, 4.302652729749462), (4.5, 2.6589123472044034), (9, 2.262157162798205),
     (99, 1.9842169515864174), (1e5, 1.9599877075346095)],
)  # fmt: skip
def test_quantiles_of_t(freedom, t):
    assert t_quantile(0.05, freedom) == pytest.approx(t, rel=1e-9)
    assert t_two_sided(t_quantile(0.05, freedom), freedom) == pytest.approx(0.05, rel=1e-9)
