"""The results of an evaluation, read from its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.errors import ResumeError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Pause, TaskResult
from launcher.evaluate import early_results, journal
from launcher.evaluate.statistics import OutOfOrder, Summary
from launcher.evaluate.stored_lines import StoredLines
from launcher.stats.overview import Overview
from launcher.tasks.base import Task


@dataclass(frozen=True)
class Outcome:
    """The results of all tasks; ``throughput`` is that of the last session, without the samples kept from earlier ones.

    ``stopped`` says why samples were left unasked, if the server did not come back. ``pauses`` are those of every
    session. ``item_changes`` counts, for each task whose items have changed, the samples kept, asked again and removed.
    ``overview`` is what the report shows of the samples. ``began`` says whether an evaluation began at all.
    ``lines`` is what a session that continues needs of the samples. ``early_groups`` has the intervals of groups whose
    samples were drawn at random.
    """

    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    throughput: Mapping[str, Json] = field(default_factory=dict)
    stopped: str | None = None
    pauses: tuple[Pause, ...] = ()
    item_changes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overview: Overview | None = field(default=None, compare=False)
    began: bool = False
    lines: StoredLines | None = field(default=None, compare=False)
    early_groups: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


def read(folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    """Return the outcome of a run folder, also of an interrupted evaluation; an empty one if none began.

    Of a task that is not one of ``tasks`` the coverage is known, but no metric.

    Raises `ResumeError` for damaged files.
    """
    return _read(folder, tasks, to_continue=False)


def read_to_continue(folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    """Return what `read` does, with the lines of the samples."""
    return _read(folder, tasks, to_continue=True)


def _read(folder: Path, tasks: Mapping[str, Task], *, to_continue: bool) -> Outcome:
    facts = journal.header(folder)
    if facts is None:
        return Outcome()
    totals, metrics = facts.get("totals", {}), {name: task.metrics for name, task in tasks.items()}
    version = RunFolder(folder).samples_version()
    try:
        made = _Pass(Summary(totals, metrics, in_order=True), facts.get("lines", 0), version)
        made.over(folder, to_continue=to_continue)
    except OutOfOrder:  # an interrupted evaluation with repeats
        made = _Pass(Summary(totals, metrics, in_order=False), facts.get("lines", 0), version)
        made.over(folder, to_continue=to_continue)
    pauses = tuple(Pause(**pause) for pause in facts.get("pauses", ()))
    speed, changes = facts.get("throughput", {}), facts.get("item_changes", {})
    lines = made.lines if to_continue else None
    early = facts.get(journal.EARLY_STOP)
    found = made.summary.results(early_results.totals(totals, made.summary.asked, early))
    return Outcome(
        early_results.applied(found, totals, early),
        speed,
        facts.get("stopped"),
        pauses,
        changes,
        made.overview,
        began=True,
        lines=lines,
        early_groups=early_results.of_groups(early),
    )


class _Pass:
    """One pass over the samples, each of which is read once for all that is needed of it."""

    def __init__(self, summary: Summary, counted: int, version: tuple[int, ...] | None) -> None:
        self.summary, self.overview, self.lines = summary, Overview(version), StoredLines(counted, version)

    def over(self, folder: Path, *, to_continue: bool) -> None:
        for number, line in enumerate(RunFolder(folder).placed_records(), start=1):
            if line.is_last and (fault := self.summary.fault(line.record)):
                place = f"{RunFolder(folder).samples}:{number}"
                raise ResumeError(f"{place}: {fault}; delete this line to ask its sample again")
            if to_continue:
                self.lines.read(line.record, line.length)
            if line.is_last:
                self.summary.add(line.record)
                self.overview.add(line.start, line.record)
