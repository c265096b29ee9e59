from __future__ import annotations

import pytest

from launcher.core.errors import TaskError, UserError
from launcher.tasks.fewshot import Examples
from launcher.tasks.generation import Generation
from launcher.tasks.items import Item, read
from launcher.tasks.multiple_choice import MultipleChoice


def question(item: Item) -> str:
    return str(item.fields["n"] % 100)


def examples(path, count, indices=(), seed=None):
    return Examples(path, "", "", count, indices, seed, question)


def shown(path, item, count, **how):
    return [example.fields["n"] for example in examples(path, count, **how).of(item)]


def test_the_pool_is_the_first_items_and_one_to_spare(jsonl):
    path = jsonl(*({"n": n} for n in range(9)))
    assert [item.fields["n"] for item in examples(path, 3).pool.values()] == [0, 1, 2, 3]
    assert examples("/nowhere", 0).of(next(read(path))) == []
    with pytest.raises(TaskError, match=r"fewshot=10 examples are needed, there are 9"):
        _ = examples(path, 10).pool


def test_the_item_itself_is_left_out(jsonl):
    path = jsonl(*({"n": n} for n in range(4)))
    first, *_, last = read(path)
    assert shown(path, first, 2) == [1, 2]
    assert shown(path, last, 2) == [0, 1]
    with pytest.raises(TaskError, match=r"items\.jsonl:1: fewshot=4"):
        shown(path, first, 4)


def test_another_item_with_the_same_question_is_left_out(jsonl):
    """It would show the answer; also when its other fields differ."""
    path = jsonl(*({"n": n} for n in (1, 101, 2, 201, 3)))
    first, second, *_ = read(path)
    for item in (first, second):
        assert shown(path, item, 2) == [2, 3]
    with pytest.raises(TaskError, match="there are 3 different questions"):
        _ = examples(path, 4).pool


def test_listed_rows_come_in_their_order(jsonl):
    path = jsonl(*({"n": n} for n in range(6)))
    items = list(read(path))
    assert shown(path, items[0], 2, indices=(4, 1, 2)) == [4, 1]
    assert shown(path, items[4], 2, indices=(4, 1, 2)) == [1, 2]
    with pytest.raises(TaskError, match="fewshot_indices"):
        shown(path, items[4], 2, indices=(4, 1))
    with pytest.raises(TaskError, match="fewshot_indices has 6; the last row is 5"):
        shown(path, items[0], 1, indices=(6,))


def test_a_draw_depends_on_the_seed_and_the_question_only(jsonl):
    path = jsonl(*({"n": n} for n in range(50)))
    items = list(read(path))
    one, two = examples(path, 5, seed=1), examples(path, 5, seed=1)
    drawn = {item.fields["n"]: [e.fields["n"] for e in one.of(item)] for item in items}
    assert drawn == {item.fields["n"]: [e.fields["n"] for e in two.of(item)] for item in reversed(items)}
    assert all(n not in found and len(set(found)) == 5 for n, found in drawn.items())
    assert len({tuple(found) for found in drawn.values()}) > 40
    assert drawn[0] != shown(path, items[0], 5, seed=2)


def test_a_description_and_examples_stand_before_a_multiple_choice_question(jsonl):
    rows = [{"question": f"{n}+1=", "choices": [str(n), str(n + 1)], "answer": 1} for n in (1, 3, 7)]
    path = jsonl(*rows)
    task = MultipleChoice(path=path, description="Add.\n\n", fewshot=2, fewshot_separator="\n")
    first, *_ = task.samples("t", "m")
    assert first.requests[0].body["prompt"] == ["Add.\n\n3+1= 4\n7+1= 8\n1+1= 1", "Add.\n\n3+1= 4\n7+1= 8\n1+1= 2"]
    other = jsonl({"question": "0+0=", "choices": ["0", "9"], "answer": 0}, name="shots.jsonl")
    first, *_ = MultipleChoice(path=path, fewshot=1, fewshot_path=other).samples("t", "m")
    assert first.requests[0].body["prompt"][0] == "0+0= 0\n\n1+1= 1"


def test_in_chat_the_description_is_part_of_the_system_message(jsonl):
    path = jsonl({"prompt": "a", "answer": "b"})
    (sample,) = Generation(path=path, chat=True, system="Be brief.", description="Spell.").samples("t", "m")
    assert sample.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief.\n\nSpell."}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fewshot_indices": [1], "fewshot_seed": 1}, "fewshot_seed are both given"),
        ({"fewshot_indices": [1], "fewshot": 2}, "fewshot_indices has 1 rows"),
        ({"fewshot_indices": [-1]}, r"fewshot_indices\[0\] is -1; must be at least 0"),
        ({"description": "{{"}, "description: template"),
        ({"context": "{{a"}, "context: template"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        MultipleChoice(**settings)


def test_listed_rows_are_shown_also_if_two_have_the_same_question(jsonl):
    path = jsonl(*({"n": n} for n in (1, 101, 2)))
    *_, last = read(path)
    assert shown(path, last, 2, indices=(0, 1)) == [1, 101]
