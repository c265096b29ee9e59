from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from launcher.tasks.windows import shares, windows
from tests.fuzzing import examples

PREFIX = -1


@settings(max_examples=examples(100), deadline=None)
@given(count=st.integers(0, 60), most=st.integers(2, 20), data=st.data())
def test_each_token_is_scored_once_in_the_windows_of_lm_eval(count, most, data):
    stride = data.draw(st.integers(1, most - 1))
    tokens = list(range(count))
    made = list(windows(tokens, PREFIX, most, stride))
    scored = [token for window in made for token in window.tokens[window.context :]]
    assert scored == tokens
    assert [token for window in made for token in tokens[window.start : window.end]] == tokens
    assert all(len(window.tokens) <= most and window.context >= 1 for window in made)
    arguments = {"token_list": tokens, "prefix_token": PREFIX, "max_seq_len": most - 1, "context_len": most - stride}
    theirs = [make_disjoint_window(pair) for pair in get_rolling_token_windows(**arguments)]
    assert [(list(w.tokens[: w.context]), list(w.tokens[w.context :])) for w in made] == theirs


@pytest.mark.parametrize(("total", "ends"), [(10, [3, 6, 7]), (1, [5, 9]), (0, [1]), (10**18, [1, 3])])
def test_shares_add_up(total, ends):
    assert sum(shares(total, ends)) == total
    assert all(share >= 0 for share in shares(total, ends))
