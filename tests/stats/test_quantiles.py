from __future__ import annotations

import random

import pytest

from launcher.stats.quantiles import quantile


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_quantiles_are_numpys(share, count):
    np = pytest.importorskip("numpy")
    numbers = sorted(random.Random(count).random() for _ in range(count))
    assert quantile(numbers, share) == pytest.approx(float(np.percentile(numbers, share * 100)))


def test_quantiles_interpolate():
    assert [quantile([*range(1, 12)], share) for share in (0, 0.5, 0.95, 1)] == [1, 6, 10.5, 11]
    assert quantile([3.0], 0.9) == 3.0
