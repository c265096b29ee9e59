from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from launcher.core.key_table import SLOTS, KeyTable


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=3)))
def test_keys_have_numbers_in_their_order(keys):
    table, expected = KeyTable(), list(dict.fromkeys(keys))
    assert [table.add(key) for key in keys] == [expected.index(key) for key in keys]
    assert len(table) == len(expected)
    assert [table.find(key) for key in expected] == list(range(len(expected)))
    assert "another key" not in table


def test_a_table_grows_and_stays_small():
    table = KeyTable()
    for number in range(20 * SLOTS):
        assert table.add(f"task/{number}/0") == number
    assert all(table.find(f"task/{number}/0") == number for number in range(0, 20 * SLOTS, 7))
    assert "task/x/0" not in table
    arrays = (value for value in vars(table).values())
    assert sum(map(sys.getsizeof, arrays)) < 25 * 20 * SLOTS
