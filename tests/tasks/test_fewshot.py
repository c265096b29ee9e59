from __future__ import annotations

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.fewshot import examples, pool
from launcher.tasks.items import read


def test_the_pool_is_the_first_items_and_one_to_spare(jsonl):
    path = jsonl(*({"n": n} for n in range(9)))
    assert [item.fields["n"] for item in pool(path, 3)] == [0, 1, 2, 3]
    assert pool(path, 0) == []
    with pytest.raises(TaskError, match=r"fewshot=10 examples are needed, the file has 9"):
        pool(path, 10)


def test_the_item_itself_is_left_out(jsonl):
    path = jsonl(*({"n": n} for n in range(4)))
    first, *_, last = items = list(read(path))
    assert [item.fields["n"] for item in examples(items[:3], 2, first)] == [1, 2]
    assert [item.fields["n"] for item in examples(items[:3], 2, last)] == [0, 1]
    with pytest.raises(TaskError, match=r"items\.jsonl:1: fewshot=4"):
        examples(items, 4, first)
