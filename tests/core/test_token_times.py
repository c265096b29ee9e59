"""The headers with the times of tokens, as written and as read."""

from __future__ import annotations

import pytest

from launcher.core.token_times import EACH, FIRST, as_headers, seconds


def test_what_is_written_is_read() -> None:
    found = as_headers(0.05, 0.2, 16)
    assert seconds(found, FIRST) == pytest.approx(0.05)
    assert seconds(found, EACH) == pytest.approx(0.01)


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_one_token_has_no_time_per_token(tokens: int | None) -> None:
    assert list(as_headers(0.05, 0.2, tokens)) == [FIRST]


@pytest.mark.parametrize("said", ["", "soon", "nan", "inf", "-1", "1e300"])
def test_what_is_no_time_is_not_read(said: str) -> None:
    assert seconds({FIRST: said}, FIRST) is None
    assert seconds({}, FIRST) is None
