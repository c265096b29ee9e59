"""The results of a run so far, from which its report is made however the run ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.adapters import failures
from launcher.core import stage
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Endpoint, GroupResult, Json, Pause, Report, TaskResult
from launcher.pipeline.outcomes import proxies
from launcher.stats.overview import Overview
from launcher.tasks.base import Task
from launcher.tasks.group import Group, aggregate

if TYPE_CHECKING:
    from launcher.evaluate.outcome import Outcome
    from launcher.evaluate.stored_lines import StoredLines


@dataclass
class RunRecord:
    """The results as they come in; `report` freezes them.

    ``run`` holds the configuration and the versions, ``declared`` the tasks of the run, ``groups`` its groups of tasks.
    ``overview`` is what the report shows of the samples, where they were read, and ``lines`` what a session that
    continues needs of them.
    """

    run: dict[str, Json]
    declared: Mapping[str, Task] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    endpoint: Endpoint | None = None
    engine: Mapping[str, Json] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    throughput: Mapping[str, Json] = field(default_factory=dict)
    pauses: tuple[Pause, ...] = ()
    load: Mapping[str, Json] = field(default_factory=dict)
    load_left_out: str = ""
    health: Mapping[str, Json] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    overview: Overview | None = None
    lines: StoredLines | None = None
    early_groups: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)

    def take(self, found: Outcome) -> None:
        """Take over the results of an evaluation."""
        self.tasks, self.throughput, self.pauses = found.tasks, found.throughput, found.pauses
        self.overview, self.lines, self.early_groups = found.overview, found.lines, found.early_groups

    def hand_over_lines(self) -> StoredLines | None:
        """Return what was read of the samples, which is kept no longer."""
        found, self.lines = self.lines, None
        return found

    def take_failures(self, folder: Path) -> None:
        """Say where failed samples are, and count what adapters did wrong without failing anything, the judge's too."""
        from launcher.evaluate import failed_exchanges

        places = {"judge": RunFolder(folder).judge, **proxies(folder, self.declared)}
        found = {f"{of}.{name}": entry for of, place in places.items() for name, entry in failures.read(place).items()}
        found = failures.read(folder) | found
        if found:
            self.run["adapter_failures"] = found
        if count := failed_exchanges.count(folder):
            self.run["failed_exchanges"] = {"folder": str(RunFolder.failed), "samples": count}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step in seconds, also when it fails, and show that it goes on."""
        start, board = time.perf_counter(), stage.current() if name != "total" else None
        if board is not None:
            board.begin(name)
        try:
            yield
        finally:
            self.timings[name] = round(time.perf_counter() - start, 3)
            if board is not None:
                board.end()

    def report(self, status: str, reason: str | None = None) -> Report:
        """Return everything known; ``status`` is one of `Report`'s."""
        return Report(
            status=status,
            run=self.run,
            endpoint=self.endpoint,
            engine=self.engine,
            tasks=self.tasks,
            throughput=self.throughput,
            timings=dict(self.timings),
            checks=self.checks,
            reason=reason,
            pauses=self.pauses,
            load=self.load,
            load_left_out=self.load_left_out,
            health=self.health,
            groups={name: self._group(name, each) for name, each in self._aggregated().items()},
        )

    def _aggregated(self) -> dict[str, GroupResult]:
        return aggregate(self.groups, self.declared, self.tasks)

    def _group(self, name: str, found: GroupResult) -> GroupResult:
        """Return the result of a group; one whose questions were drawn as one has an interval of its own."""
        from launcher.evaluate.early_results import sequential

        early = self.early_groups.get(name)
        if early is None:
            return found
        metrics = {key: sequential(each, early["intervals"].get(key)) for key, each in found.result.metrics.items()}
        return replace(found, result=replace(found.result, metrics=metrics, early_stop=early["told"]))
