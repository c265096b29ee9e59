"""Compares runs that stopped early, in the order in which they asked: a look at any time is paid for."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from launcher.core.types import Aggregation, Json
from launcher.evaluate.units import sizes
from launcher.report import results
from launcher.report.compare import Comparison
from launcher.report.schema import MetricEntry
from launcher.stats.betting import Bounds, ConfidenceSequence, EqualityTest
from launcher.verdict.runs import Run

TEST = "sequential"
WHOLE = (Aggregation.items.value, Aggregation.corpus.value)
"""Such metrics are no mean of samples with bounds."""


@dataclass(frozen=True)
class SequentialComparison(Comparison):
    """A `Comparison` that is valid at any time.

    ``low`` and ``high`` bound the difference that all ``total`` questions would show; ``p`` says whether it may be
    chance.
    """

    low: float
    high: float
    total: int


@dataclass(frozen=True)
class Drawn:
    """The random order of one run: ``blocks`` of questions ``<task>/<id>``, of ``total`` in the population ``name``.

    By task, ``sizes`` are the numbers of questions, ``units`` those of what is drawn, and ``largest`` the questions of
    the largest unit.
    """

    name: str
    blocks: Sequence[Sequence[str]]
    factors: Mapping[str, float]
    sizes: Mapping[str, int]
    units: Mapping[str, int]
    largest: Mapping[str, int]

    @classmethod
    def read(cls, name: str, found: Mapping[str, Json]) -> Drawn:
        """Return the order that ``journal.json`` has of a population."""
        return cls(name, *(found[each.name] for each in fields(cls)[1:]))

    def of(self, task: str) -> Drawn:
        """Return the order of one task of a group."""
        blocks = [[question for question in block if question.split("/", 1)[0] == task] for block in self.blocks]
        numbers = ({task: each[task]} for each in (self.sizes, self.units, self.largest))
        return Drawn(task, list(filter(None, blocks)), {task: 1.0}, *numbers)

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def drawn(a: Run, b: Run, name: str) -> Drawn | None:
    """Return the order in which both runs asked a task or group; None where neither stopped early, as others do."""
    for run in sorted((a, b), key=lambda run: not _stopped(run)):
        for population, found in run.populations.items():
            order = Drawn.read(population, found)
            if population == name:
                return order
            if name in found["sizes"]:
                return order.of(name)
    return None


def _stopped(run: Run) -> bool:
    return any(each["decided"] for each in run.populations.values())


def compare(a: Run, b: Run, order: Drawn, metric: str) -> SequentialComparison | None:
    """Compare two runs in the blocks that both have asked; None where there is none, or where values have no bounds.

    A sample without a score counts, for each end of the interval, where it widens it.
    """
    entry = results.metric_entry({**a.results}, order.name, metric)
    if entry is None or None in entry["range"] or entry["aggregation"] in WHOLE:
        return None
    scores = [_Scores(run, order, metric, entry) for run in (a, b)]
    done = list(_done(order.blocks, scores))
    ends = [factor * float(end or 0) for factor in order.factors.values() for end in entry["range"]]
    span = max(ends) - min(ends)
    units, largest = sum(order.units.values()), max(order.largest.values())
    sequence = ConfidenceSequence(order.total, -span, span, units=units, largest=largest)
    test, unit_of, drawn = EqualityTest(units, span, largest), _unit_of(a, b), 0
    for block in done:
        found, alike = _differences(scores[0], scores[1], block), sizes(block, unit_of)
        sequence.add(found, alike)
        test.add(found, alike)
        drawn += len(alike)
    made = _comparison(a, b, order, metric, scores, done, sequence, float(test.p))
    return made if made is None or largest == 1 else replace(made, clusters=drawn)


def _unit_of(a: Run, b: Run) -> Callable[[str], Hashable]:
    """Return a function that names the unit of a question: the cluster that it shares, or itself."""
    known = {
        f"{task}/{question}": (task, cluster)
        for run in (a, b)
        for task, found in run.answers.clusters.items()
        for question, cluster in found.items()
    }
    return lambda question: known.get(question, question)


@dataclass(frozen=True)
class _Scores:
    """The values of a run's questions in one metric."""

    run: Run
    order: Drawn
    metric: str
    entry: MetricEntry

    def asked(self, question: str) -> bool:
        task, key = question.split("/", 1)
        return key in self.run.answers.ids.get(task, ())

    def bounds(self, question: str) -> tuple[float, float]:
        """Return the least and the greatest value of a question, times the factor of its task."""
        task, key = question.split("/", 1)
        low, high = (float(end or 0) for end in self.entry["range"])
        found = self.run.answers.by_id(task, self.metric).get(key, [])
        lost = max(0, self.run.repeats - len(found))
        each = len(found) + lost
        factor, known = self.order.factors[task], math.fsum(found)
        return factor * (known + lost * low) / each, factor * (known + lost * high) / each


def _done(blocks: Sequence[Sequence[str]], scores: Sequence[_Scores]) -> Iterator[Sequence[str]]:
    for block in blocks:
        if not all(each.asked(question) for each in scores for question in block):
            return
        yield block


def _differences(a: _Scores, b: _Scores, block: Sequence[str]) -> Bounds:
    pairs = ((a.bounds(question), b.bounds(question)) for question in block)
    return [(low - most, high - least) for (least, most), (low, high) in pairs]


def _comparison(
    a: Run,
    b: Run,
    order: Drawn,
    metric: str,
    scores: Sequence[_Scores],
    done: Sequence[Sequence[str]],
    sequence: ConfidenceSequence,
    p: float,
) -> SequentialComparison | None:
    """Return the comparison; its difference is the mean over the questions that both scored."""
    both = [(question, [each.bounds(question) for each in scores]) for block in done for question in block]
    known = [(ends[0][0], ends[1][0]) for _, ends in both if all(low == high for low, high in ends)]
    if not known:
        return None
    values = math.fsum(one for one, _ in known) / len(known), math.fsum(other for _, other in known) / len(known)
    difference = math.fsum(other - one for one, other in known) / len(known)
    low, high = min(sequence.low, difference), max(sequence.high, difference)
    left_out = len(both) - len(known)
    return SequentialComparison(
        order.name, metric, a.label, b.label, len(known), left_out, difference, None, TEST, p, p,
        low, high, order.total, values=values,
    )  # fmt: skip
