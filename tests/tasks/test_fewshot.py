from __future__ import annotations

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.fewshot import examples, pool
from launcher.tasks.items import Item, read


def question(item: Item) -> str:
    return str(item.fields["n"] % 100)


def test_the_pool_is_the_first_items_and_one_to_spare(jsonl):
    path = jsonl(*({"n": n} for n in range(9)))
    assert [item.fields["n"] for item in pool(path, 3, question).values()] == [0, 1, 2, 3]
    assert pool(path, 0, question) == {}
    with pytest.raises(TaskError, match=r"fewshot=10 examples are needed, the file has 9"):
        pool(path, 10, question)


def test_the_item_itself_is_left_out(jsonl):
    path = jsonl(*({"n": n} for n in range(4)))
    first, *_, last = read(path)
    for item, shown in ((first, [1, 2]), (last, [0, 1])):
        assert [example.fields["n"] for example in examples(pool(path, 2, question), 2, item, question)] == shown
    with pytest.raises(TaskError, match=r"items\.jsonl:1: fewshot=4"):
        examples(pool(path, 4, question), 4, first, question)


def test_another_item_with_the_same_question_is_left_out(jsonl):
    """It would show the answer; also when its other fields differ."""
    path = jsonl(*({"n": n} for n in (1, 101, 2, 201, 3)))
    first, second, *_ = read(path)
    for item in (first, second):
        assert [example.fields["n"] for example in examples(pool(path, 2, question), 2, item, question)] == [2, 3]
    with pytest.raises(TaskError, match="the file has 3 different questions"):
        pool(path, 4, question)
