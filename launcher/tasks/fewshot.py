"""Picks the examples that are shown before a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launcher.core.errors import TaskError
from launcher.tasks.items import Item, read

Pool = Mapping[str, Item]
"""Items by their question."""


def pool(path: str, count: int, question: Callable[[Item], str]) -> Pool:
    """Return the first ``count`` items of ``path`` with different questions, and one to spare.

    Raises `TaskError` if there are fewer.
    """
    found: dict[str, Item] = {}
    for item in read(path) if count else ():
        found.setdefault(question(item), item)
        if len(found) > count:
            break
    if len(found) < count:
        raise TaskError(f"{path}: fewshot={count} examples are needed, the file has {len(found)} different questions")
    return found


def examples(pool: Pool, count: int, item: Item, question: Callable[[Item], str]) -> list[Item]:
    """Return ``count`` items of the pool; one with the question of ``item`` would show the answer, and is left out.

    Raises `TaskError` when leaving it out leaves too few.
    """
    if not count:
        return []
    asked = question(item)
    shown = [example for text, example in pool.items() if text != asked][:count]
    if len(shown) < count:
        raise TaskError(f"{item.where}: fewshot={count} examples are needed besides the item itself")
    return shown
