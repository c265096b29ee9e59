"""Decides when an evaluation has asked as many questions as its verdict needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Protocol

from launcher.core.types import Json, Record
from launcher.evaluate.populations import Answers, Population, is_bounded, populations, weights
from launcher.evaluate.random_order import BLOCKS
from launcher.evaluate.units import Question, Units, drawn, sizes
from launcher.stats.betting import ALPHA, ConfidenceSequence, Sizes
from launcher.tasks.base import Task
from launcher.tasks.group import Group

Drawn = Mapping[str, Sequence[Sequence[str]]]
"""The questions of each population, as ``<task>/<id>``, in blocks of random ones."""


class Draws:
    """The random order of one run's questions, and what is known of their answers.

    ``groups`` are those of the run; ``seed`` decides the order.
    """

    def __init__(self, tasks: Mapping[str, Task], groups: Mapping[str, Group], repeats: int, seed: int) -> None:
        self.groups, self.seed = groups, seed
        self.populations = populations(tasks, groups)
        self.answers = Answers(tasks, repeats)
        self.sizes: dict[str, int] = {}
        self.units: dict[str, Units] = {}
        self.drawn: dict[str, list[list[str]]] = {}
        self._unit_of: dict[str, str] = {}

    def draw(self, items: Mapping[str, Sequence[Question]]) -> None:
        """Put the questions of all tasks in order."""
        self.sizes = {task: len(found) for task, found in items.items()}
        self.units = {task: Units.of(task, found) for task, found in items.items()}
        self.drawn = {
            each.name: drawn([self.units[task] for task in each.tasks], self.seed) for each in self.populations
        }
        several = [found for each in self.units.values() for found in each.members.items()]
        self._unit_of = {question: unit for unit, members in several for question in members}

    def shape(self, tasks: Iterable[str]) -> tuple[int, int]:
        """Return how many units the questions of some tasks are drawn in, and how many the largest of these has."""
        found = [self.units[task] for task in tasks]
        return sum(each.count for each in found), max(each.largest for each in found)

    def unit_sizes(self, block: Sequence[str]) -> Sizes:
        """Return how many questions in a row make each unit of a block; None where each stands alone."""
        return sizes(block, lambda question: self._unit_of.get(question, question)) if self._unit_of else None

    def factors(self, population: Population) -> dict[str, float]:
        return weights(population, self.groups, self.sizes)

    def ends(self, population: Population, metric: str) -> tuple[float, float]:
        """Return the least and the greatest value that a question may add, with the factor of its task."""
        ranges = [
            (factor * float(low), factor * float(high))
            for task, factor in self.factors(population).items()
            for low, high in [self.answers.metric(task, metric).range]
            if low is not None and high is not None
        ]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def size(self, population: Population) -> int:
        """Return the number of questions of a population."""
        return sum(self.sizes[task] for task in population.tasks)

    def metrics(self, population: Population) -> list[str]:
        """Return the metrics with bounds that all tasks of a population have."""
        return _metrics(self, population.tasks)

    def sequence(self, population: Population, metric: str, alpha: float = ALPHA) -> ConfidenceSequence:
        units, largest = self.shape(population.tasks)
        ends = self.ends(population, metric)
        return ConfidenceSequence(self.size(population), *ends, alpha, units=units, largest=largest)


class Stop(Protocol):
    """Says which questions are still to be asked in a run."""

    @property
    def draws(self) -> Draws: ...

    def begin(self, wake: Callable[[], None]) -> None:
        """Take the order of the questions, once it is drawn; ``wake`` tells the session that `holds` may have ended."""

    def note(self, record: Record) -> None:
        """Take how a sample has ended."""

    def needs(self, population: str) -> bool:
        """Tell whether more questions of a population are needed."""

    def holds(self, asked: int) -> bool:
        """Tell whether the next question, after ``asked`` others, has to wait."""

    def facts(self) -> dict[str, Json]:
        """Return what the results say of it."""


class Widths:
    """Asks each population until its interval is as narrow as ``widths`` says; one without a width is asked whole."""

    def __init__(self, draws: Draws, widths: Mapping[str, float], told: Json) -> None:
        self.draws, self._widths, self._told = draws, dict(widths), told
        self._looks: dict[str, Looks] = {}

    def begin(self, wake: Callable[[], None]) -> None:
        self._looks = {each.name: Looks(self.draws, each) for each in self.draws.populations}

    def note(self, record: Record) -> None:
        self.draws.answers.note(record)

    def needs(self, population: str) -> bool:
        width = self._widths.get(population)
        if width is None:
            return True
        looks = self._looks[population]
        looks.advance(lambda found: found.width <= width)
        return not (looks.sequence.width <= width and looks.covers)

    def holds(self, asked: int) -> bool:
        return False

    def facts(self) -> dict[str, Json]:
        decided = {name: not self.needs(name) for name in self._looks}
        return {"until": self._told, **facts(self.draws, decided)}


class Looks:
    """Follows the blocks of one population, each as soon as all of its questions and those before have ended."""

    def __init__(self, draws: Draws, population: Population) -> None:
        self._draws, self._population = draws, population
        self._factors = draws.factors(population)
        self.sequence = draws.sequence(population, population.metric)
        self.blocks = 0
        self._seen: set[str] = set()

    def advance(self, enough: Callable[[ConfidenceSequence], bool]) -> None:
        """Look after each complete block, until that is ``enough``."""
        drawn, answers = self._draws.drawn[self._population.name], self._draws.answers
        while self.blocks < len(drawn) and not (enough(self.sequence) and self.covers):
            if not all(map(answers.is_complete, drawn[self.blocks])):
                return
            values = answers.block(drawn[self.blocks], self._population.metric, self._factors)
            self.sequence.add(values, self._draws.unit_sizes(drawn[self.blocks]))
            self._seen |= {question.split("/", 1)[0] for question in drawn[self.blocks]}
            self.blocks += 1

    @property
    def covers(self) -> bool:
        """Whether each task of the population was asked something, so that a group has a value."""
        return len(self._seen) == len(self._population.tasks)


def complete_blocks(drawn: Sequence[Sequence[str]], *answers: Answers) -> int:
    """Return the number of blocks from the first on whose questions have all ended, in each of several runs."""
    for number, block in enumerate(drawn):
        if not all(each.is_complete(question) for each in answers for question in block):
            return number
    return len(drawn)


def facts(draws: Draws, decided: Mapping[str, bool]) -> dict[str, Json]:
    """Return what a reader must know of a run that may have stopped early: its intervals, and the order so far.

    It is computed from the answers as they are now: a sample that failed at first may have been asked again.
    """
    return {
        "level": 1 - ALPHA,
        "seed": draws.seed,
        "populations": {
            each.name: _population(draws, each, decided.get(each.name, False)) for each in draws.populations
        },
    }


def _population(draws: Draws, population: Population, decided: bool) -> dict[str, Json]:
    drawn = draws.drawn[population.name]
    done = drawn[: complete_blocks(drawn, draws.answers)]
    asked = [question for block in drawn for question in block if draws.answers.is_complete(question)]
    total = sum(map(len, drawn))
    return {
        "metric": population.metric,
        "total": total,
        "asked": len(asked),
        "decided": decided,
        "factors": draws.factors(population),
        "sizes": {task: draws.sizes[task] for task in population.tasks},
        "units": {task: draws.units[task].count for task in population.tasks},
        "largest": {task: draws.units[task].largest for task in population.tasks},
        "blocks": done,
        "intervals": _intervals(draws, population, done) if len(asked) < total else {},
    }


def _intervals(draws: Draws, population: Population, done: Sequence[Sequence[str]]) -> dict[str, Json]:
    """Return the interval of each metric: of a task by its name, and of a group and its tasks."""
    found: dict[str, dict[str, list[float]]] = {}
    factors = draws.factors(population)
    for metric in _metrics(draws, population.tasks):
        sequence = draws.sequence(population, metric)
        for block in done:
            sequence.add(draws.answers.block(block, metric, factors), draws.unit_sizes(block))
        found.setdefault(population.name, {})[metric] = [sequence.low, sequence.high]
    if population.tasks != (population.name,):
        for task in population.tasks:
            found[task] = _of_member(draws, task, done)
    return found


def _metrics(draws: Draws, tasks: Sequence[str]) -> list[str]:
    """Return the metrics with bounds that all of several tasks have."""
    bounded = [[each.name for each in draws.answers.tasks[task].metrics if is_bounded(each)] for task in tasks]
    return [name for name in bounded[0] if all(name in others for others in bounded)]


MEMBER_LOOKS = 32
"""The interval of a task within a group is looked at so often, each time after as many blocks."""


def _of_member(draws: Draws, task: str, done: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Return the intervals of one task of a group: what it has in the blocks is drawn at random from its own."""
    step, (units, largest) = max(1, BLOCKS // MEMBER_LOOKS), draws.shape([task])
    own = [[each for each in block if each.split("/", 1)[0] == task] for block in done]
    parts = [list(chain(*own[end - step : end])) for end in range(step, len(own) + 1, step)]
    found = {}
    for metric in _metrics(draws, [task]):
        low, high = (float(end) for end in draws.answers.metric(task, metric).range if end is not None)
        sequence = ConfidenceSequence(draws.sizes[task], low, high, units=units, largest=largest)
        for part in parts:
            sequence.add(draws.answers.block(part, metric, {task: 1.0}), draws.unit_sizes(part))
        found[metric] = [sequence.low, sequence.high]
    return found
