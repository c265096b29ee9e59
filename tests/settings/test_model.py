"""The bounds of a checkpoint are sizes, or are refused by their own name."""

from __future__ import annotations

import pytest

from launcher.core.errors import UserError
from launcher.settings.model import MOST, Bounds


@pytest.mark.parametrize("key", ["metadata_mb", "unpacked_ratio"])
@pytest.mark.parametrize("value", [0, -1, MOST + 1, 10**26])
def test_a_bound_that_is_no_size_is_refused_by_its_own_name(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"model\.bounds\.{key} is {value}; a whole number from 1 to {MOST} is needed"):
        Bounds(**{key: value})
    assert Bounds(**{key: MOST})
