"""What is drawn at random: single questions, or all that share a passage, so that no answer tells of a later one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from launcher.evaluate.random_order import blocks


@dataclass(frozen=True)
class Question:
    """A question of a task, named ``<task>/<id>``, with the cluster and the category of its samples."""

    name: str
    cluster: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class Units:
    """The questions of a task by the unit that they are drawn in, which has the name of its first question.

    ``strata`` are the units by category, ``members`` the questions of those that have several.
    """

    strata: Mapping[str, Sequence[str]]
    members: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, task: str, questions: Iterable[Question]) -> Units:
        first: dict[str, str] = {}
        strata: dict[str, list[str]] = {}
        members: dict[str, list[str]] = {}
        for each in questions:
            unit = each.name if each.cluster is None else first.setdefault(each.cluster, each.name)
            members.setdefault(unit, []).append(each.name)
            if unit == each.name:
                strata.setdefault(task if each.category is None else f"{task}/{each.category}", []).append(unit)
        return cls(strata, {unit: found for unit, found in members.items() if len(found) > 1})

    @property
    def count(self) -> int:
        return sum(map(len, self.strata.values()))

    @property
    def largest(self) -> int:
        """The number of questions of the largest unit."""
        return max(map(len, self.members.values()), default=1)


def drawn(tasks: Iterable[Units], seed: int) -> list[list[str]]:
    """Return the questions in blocks of random units, over which each category is spread evenly."""
    units = list(tasks)
    strata = {name: members for each in units for name, members in each.strata.items()}
    several = {unit: members for each in units for unit, members in each.members.items()}
    return [[question for unit in block for question in several.get(unit, (unit,))] for block in blocks(strata, seed)]


def sizes(block: Iterable[str], unit_of: Callable[[str], Hashable]) -> list[int]:
    """Return how many questions in a row make each unit of a block."""
    return [sum(1 for _ in found) for _, found in groupby(block, unit_of)]
