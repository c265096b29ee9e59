"""A race of two models over the same questions in the same random order, until the verdict needs no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.core.errors import TaskError
from launcher.core.types import Aggregation, Json, Record
from launcher.evaluate.early_stop import Draws, facts
from launcher.evaluate.populations import Answers, Population
from launcher.stats.betting import ALPHA, Bounds, ConfidenceSequence, EqualityTest

UNTIL = "race"
AHEAD = 8
"""A model may be so many questions ahead of the other one, beside those that are in flight."""


class Race:
    """What two runs, ``a`` and ``b``, know of each other while both ask.

    A population is decided once the difference is: its test and its interval both exclude 0. With a width for it, it is
    also decided once the interval of the difference is as narrow. Several metrics and populations share the level.
    """

    def __init__(self, a: Draws, b: Draws, widths: Mapping[str, float] | None = None, concurrency: int = 1) -> None:
        self._draws, self._widths = (a, b), dict(widths or {})
        self._ahead = AHEAD + concurrency
        self._looks: dict[str, Looks] = {}
        self._order: list[tuple[str, str]] = []
        self._places = [0, 0]
        self._wakes: dict[int, Callable[[], None]] = {}
        self.lost = ""
        self.sides = (Side(self, 0), Side(self, 1))

    def begin(self, side: int, wake: Callable[[], None]) -> None:
        """Take the order of one side. Raises `TaskError` if the other has other questions."""
        self._wakes[side] = wake
        if len(self._wakes) < len(self._draws):
            return
        a, b = self._draws
        if (a.drawn, a.units) != (b.drawn, b.units):
            raise TaskError("the two models are asked other questions, so that they cannot race; compare their tasks")
        level = ALPHA / sum(len(a.metrics(each)) for each in a.populations)
        self._looks = {
            each.name: Looks(self._draws, each, level, self._widths.get(each.name)) for each in a.populations
        }
        self._order = [(name, question) for name, drawn in a.drawn.items() for block in drawn for question in block]
        self.advance()

    def end(self, reason: str) -> None:
        """End the race for a reason other than a verdict."""
        self.lost = self.lost or reason
        self._wake()

    def needs(self, population: str) -> bool:
        return not self.lost and not (population in self._looks and self._looks[population].decided)

    def holds(self, side: int, place: int) -> bool:
        """Tell whether a side is too far ahead of the other one."""
        return not self.lost and place >= self._places[1 - side] + self._ahead

    def advance(self) -> None:
        """Look at what has ended on both sides."""
        if not self._looks:
            return
        for looks in self._looks.values():
            looks.advance()
        for side, draws in enumerate(self._draws):
            while self._places[side] < len(self._order) and self._is_over(draws, *self._order[self._places[side]]):
                self._places[side] += 1
        self._wake()

    def _is_over(self, draws: Draws, population: str, question: str) -> bool:
        return self._looks[population].decided or draws.answers.is_complete(question)

    def _wake(self) -> None:
        for wake in self._wakes.values():
            wake()

    @property
    def decided(self) -> dict[str, bool]:
        return {name: looks.decided for name, looks in self._looks.items()}

    def described(self) -> str:
        """Say for each population where the race stands."""
        return " · ".join(str(looks) for looks in self._looks.values() if looks.asked)


@dataclass(frozen=True)
class Side:
    """The `Stop` of one of the two runs."""

    race: Race
    number: int

    @property
    def draws(self) -> Draws:
        return self.race._draws[self.number]

    def begin(self, wake: Callable[[], None]) -> None:
        self.race.begin(self.number, wake)

    def note(self, record: Record) -> None:
        self.draws.answers.note(record)
        self.race.advance()

    def needs(self, population: str) -> bool:
        return self.race.needs(population)

    def holds(self, asked: int) -> bool:
        return self.race.holds(self.number, asked)

    def facts(self) -> dict[str, Json]:
        return {"until": UNTIL, **facts(self.draws, self.race.decided)}


@dataclass
class Looks:
    """The differences in one population, block by block."""

    draws: tuple[Draws, Draws]
    population: Population
    level: float
    width: float | None
    asked: int = 0
    decided: bool = False
    _blocks: int = 0
    _sequence: ConfidenceSequence = field(init=False)
    _test: EqualityTest = field(init=False)
    _factors: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        draws, population = self.draws[0], self.population
        low, high = draws.ends(population, population.metric)
        total, (units, largest) = draws.size(population), draws.shape(population.tasks)
        span = high - low
        self._sequence = ConfidenceSequence(total, -span, span, self.level, units=units, largest=largest)
        self._test, self._factors = EqualityTest(units, span, largest), draws.factors(population)

    def advance(self) -> None:
        """Look after each block whose questions have all ended on both sides, until the verdict stands."""
        drawn = self.draws[0].drawn[self.population.name]
        while not self.decided and self._blocks < len(drawn):
            block = drawn[self._blocks]
            if not all(each.answers.is_complete(question) for each in self.draws for question in block):
                return
            a, b = (each.answers for each in self.draws)
            found = differences(a, b, block, self.population.metric, self._factors)
            sizes = self.draws[0].unit_sizes(block)
            self._sequence.add(found, sizes)
            self._test.add(found, sizes)
            self._blocks, self.asked = self._blocks + 1, self.asked + len(block)
            narrow = self.width is not None and self._sequence.width <= self.width
            self.decided = narrow or self._differs

    @property
    def _differs(self) -> bool:
        return float(self._test.p) < self.level and not self._sequence.low <= 0 <= self._sequence.high

    def __str__(self) -> str:
        total = self.draws[0].size(self.population)
        bounds = f"[{self._sequence.low:+.3f}, {self._sequence.high:+.3f}]"
        stands = "decided" if self.decided else f"p {float(self._test.p):.2g}"
        return f"{self.population.name} {self.asked:,} of {total:,}: B - A in {bounds}, {stands}"


def differences(a: Answers, b: Answers, block: Sequence[str], metric: str, factors: Mapping[str, float]) -> Bounds:
    """Return for each question the least and the greatest that b's value may be above a's."""
    pairs = zip(a.block(block, metric, factors), b.block(block, metric, factors), strict=True)
    return [(low - most, high - least) for (least, most), (low, high) in pairs]


def unfit(draws: Draws) -> str:
    """Say which population cannot race, as the differences of samples say nothing of its metric; empty if all can."""
    for population in draws.populations:
        for task in population.tasks:
            if draws.answers.metric(task, population.metric).aggregation is not Aggregation.mean:
                return f"{task} is decided by {population.metric}, which combines the repeats of a question"
    return ""
