"""Picks the examples that are shown before a question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from launcher.core.errors import TaskError
from launcher.tasks.items import Item, read


def pool(path: str, count: int) -> list[Item]:
    """Return the first ``count`` items of ``path`` and one to spare. Raises `TaskError` if there are fewer."""
    if not count:
        return []
    found = list(islice(read(path), count + 1))
    if len(found) < count:
        raise TaskError(f"{path}: fewshot={count} examples are needed, the file has {len(found)}")
    return found


def examples(pool: Sequence[Item], count: int, item: Item) -> list[Item]:
    """Return ``count`` items of the pool, leaving out the one that is being asked.

    Raises `TaskError` when leaving it out leaves too few.
    """
    shown = [example for example in pool if example.fields != item.fields][:count]
    if len(shown) < count:
        raise TaskError(f"{item.where}: fewshot={count} examples are needed besides the item itself")
    return shown
