"""The results of an evaluation, read from its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Pause, TaskResult
from launcher.evaluate import journal
from launcher.evaluate.statistics import OutOfOrder, Summary
from launcher.stats.overview import Overview
from launcher.tasks.base import Task


@dataclass(frozen=True)
class Outcome:
    """The results of all tasks; ``throughput`` is that of the last session, without the samples kept from earlier ones.

    ``stopped`` says why samples were left unasked, if the server did not come back. ``pauses`` are those of every
    session. ``item_changes`` counts, for each task whose items have changed, the samples kept, asked again and removed.
    ``overview`` is what the report shows of the samples. ``began`` says whether an evaluation began at all.
    """

    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    throughput: Mapping[str, Json] = field(default_factory=dict)
    stopped: str | None = None
    pauses: tuple[Pause, ...] = ()
    item_changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overview: Overview | None = field(default=None, compare=False)
    began: bool = False


def read(folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    """Return the outcome of a run folder, also of an interrupted evaluation; an empty one if none began.

    Of a task that is not one of ``tasks`` the coverage is known, but no metric.

    Raises `ResumeError` for damaged files.
    """
    facts = journal.header(folder)
    if facts is None:
        return Outcome()
    totals, metrics = facts.get("totals", {}), {name: task.metrics for name, task in tasks.items()}
    try:
        found, overview = _gathered(RunFolder(folder), Summary(totals, metrics, in_order=True))
    except OutOfOrder:  # an interrupted evaluation with repeats
        found, overview = _gathered(RunFolder(folder), Summary(totals, metrics, in_order=False))
    pauses = tuple(Pause(**pause) for pause in facts.get("pauses", ()))
    speed, changes = facts.get("throughput", {}), facts.get("item_changes", {})
    return Outcome(found, speed, facts.get("stopped"), pauses, changes, overview, began=True)


def _gathered(folder: RunFolder, summary: Summary) -> tuple[dict[str, TaskResult], Overview]:
    """Return the results, and what the report shows of the samples: each is read once for both."""
    overview = Overview(folder.samples_version())
    for start, record in folder.placed_records():
        summary.add(record)
        overview.add(start, record)
    return summary.results(), overview
