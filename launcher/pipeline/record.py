"""The results of a run so far, from which its report is made however the run ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from launcher.core.types import Check, Endpoint, Json, Pause, Report, TaskResult
from launcher.tasks.base import Task
from launcher.tasks.group import Group, aggregate


@dataclass
class RunRecord:
    """The results as they come in; `report` freezes them.

    ``run`` holds the configuration and the versions, ``declared`` the tasks of the run, ``groups`` its groups of tasks.
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
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step in seconds, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = round(time.perf_counter() - start, 3)

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
            groups=aggregate(self.groups, self.declared, self.tasks),
        )
