"""What a report shows of all samples: which of them, and how long they took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from launcher.core.types import Record, Status
from launcher.stats.distribution import Distribution

ROWS = 2_000
"""At most this many samples are shown."""
RESERVED = 250
"""Rows kept for each group when those before it could fill the table."""


class Group(Enum):
    """How a sample ended, in the order in which samples are shown."""

    lost = "not scored"
    wrong = "wrong"
    other = "right or partly right"


@dataclass
class Overview:
    """Gathers which lines of ``samples.jsonl`` to show, and the latencies of answered samples in seconds.

    The choice depends on the file alone: the first samples of each group, those that were not scored before wrong ones
    before others. ``counts`` are all samples of each group. ``version`` is that of the file which was read.
    """

    version: tuple[int, ...] | None = None
    counts: dict[Group, int] = field(default_factory=lambda: dict.fromkeys(Group, 0))
    latency: Distribution = field(default_factory=Distribution)
    latencies: dict[str, Distribution] = field(default_factory=dict)
    _starts: dict[Group, list[int]] = field(default_factory=lambda: {group: [] for group in Group})

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, start: int, record: Record) -> None:
        """Note a record whose line begins after ``start`` bytes."""
        group = _group(record)
        self.counts[group] += 1
        if len(self._starts[group]) < ROWS:
            self._starts[group].append(start)
        if record.status is not Status.failed and math.isfinite(record.latency_s) and record.latency_s >= 0:
            self.latency.add(record.latency_s)
            self.latencies.setdefault(record.task, Distribution()).add(record.latency_s)

    def chosen(self) -> dict[Group, list[int]]:
        """Return where the lines of each group begin that are to be shown, `ROWS` at most in all."""
        left, found = ROWS, {}
        for group, later in ((group, list(Group)[place + 1 :]) for place, group in enumerate(Group)):
            spared = sum(min(RESERVED, self.counts[each]) for each in later)
            found[group] = self._starts[group][: max(0, left - spared)]
            left -= len(found[group])
        return found


def _group(record: Record) -> Group:
    """Return the group of a sample; one with a first score of 0 or less is wrong, as the page says."""
    if record.status is not Status.scored:
        return Group.lost
    first = next(iter(record.scores.values()), None)
    return Group.wrong if isinstance(first, int | float) and first <= 0 else Group.other
