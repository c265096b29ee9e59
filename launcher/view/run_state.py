"""What the page of one run shows, from the files of its folder, while it goes on and afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launcher.core import stage as stages
from launcher.core.reading import Reading
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Status
from launcher.report import formatting, results
from launcher.view.cached import HealthFile, JsonFiles, end_of_log
from launcher.view.charts import Line, line
from launcher.view.folders import Standing, standing

TASKS = 200
"""At most this many tasks have a row."""
LOGS = 4
PROBLEMS = 40
"""At most this many checks that did not pass are shown while a run goes on; the report has all."""
EVENTS = 30


@dataclass(frozen=True)
class TaskRow:
    """A task or a metric of it: its value, and how its samples ended so far."""

    name: str
    metric: str
    value: float | None
    stderr: float | None
    interval: str
    counts: Mapping[str, int]
    total: int | None

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def scored(self) -> int:
        return self.counts.get(Status.scored.value, 0)

    @property
    def left(self) -> int:
        return max(0, (self.total or 0) - self.done)


@dataclass(frozen=True)
class RunState:
    """A run as its page shows it."""

    title: str
    folder: str
    standing: Standing
    stage: Mapping[str, Json]
    step: str
    share: float | None
    left_s: float | None
    facts: Mapping[str, str]
    rows: Sequence[TaskRow]
    more: int
    throughput: Mapping[str, Json]
    steps: Mapping[str, float]
    pauses: Sequence[Mapping[str, Json]]
    certificate: Mapping[str, Json]
    problems: Sequence[Mapping[str, Json]]
    health: Reading | None
    replicas: Sequence[Mapping[str, Json]]
    events: Sequence[tuple[str, str]]
    speed: Line | None
    latency: Line | None
    logs: Sequence[tuple[str, str]]
    reports: Sequence[str]
    only_checked: bool = False
    """Whether the run is over, and was to check the endpoint rather than to evaluate it."""


@dataclass
class RunReader:
    """Reads one run folder again and again."""

    path: Path
    files: JsonFiles
    _health: HealthFile = field(init=False)

    def __post_init__(self) -> None:
        self._health = HealthFile(RunFolder(self.path).health)

    def read(self) -> RunState:
        """Return where the run is now."""
        folder = RunFolder(self.path)
        stage, found = self.files.mapping(folder.stage), self.files.mapping(folder.results)
        where = standing(stage, found, folder)
        certificate, journal = self.files.mapping(folder.certificate), self.files.mapping(folder.journal)
        done = found if where.is_over else {}
        self._health.update()
        rows = list(_finished(done) if done else _so_far(stage))
        readings = list(self._health.readings)
        return RunState(
            title=title(found, certificate, self.path),
            folder=str(self.path),
            standing=where,
            stage=stage,
            step=_step(stage) if where.status == "running" else "",
            share=_share(stage),
            left_s=_left_s(stage) if where.status == "running" else None,
            facts=dict(_facts(found, certificate, self.files.mapping(folder.lease), folder)),
            rows=rows[:TASKS],
            more=max(0, len(rows) - TASKS),
            throughput=done.get("throughput") or stage.get("throughput") or {},
            steps=done.get("timings") or stage.get("steps") or {},
            pauses=done.get("pauses") or journal.get("pauses") or [],
            certificate=certificate,
            problems=_problems(certificate),
            health=readings[-1] if readings else None,
            replicas=_replicas(readings),
            events=[(_clock(each.time), event) for each in readings for event in each.events][-EVENTS:],
            speed=line([(each.time, each.tokens_per_s) for each in readings], "tokens/s"),
            latency=line([(each.time, each.latency_s) for each in readings], "s"),
            logs=list(_logs(folder)),
            reports=[str(file) for file in (RunFolder.report,) if (self.path / file).exists()],
            only_checked=not rows and (stage.get("step") == "serving" or results.only_checked(done.get("run") or {})),
        )


def title(found: Mapping[str, Json], certificate: Mapping[str, Json], path: Path) -> str:
    """Return the name of the model, or that of the folder where no server was up yet."""
    endpoint = found.get("endpoint") or certificate.get("endpoint") or {}
    return str(endpoint.get("model") or path.name)


def _step(stage: Mapping[str, Json]) -> str:
    known = stages.amount(stage.get("done"), stage.get("total"), str(stage.get("unit") or ""))
    return " · ".join(
        filter(None, (str(stage.get("step") or "between two steps"), known, str(stage.get("note") or "")))
    )


def _share(stage: Mapping[str, Json]) -> float | None:
    done, total = stage.get("done"), stage.get("total")
    return min(1.0, done / total) if done is not None and total else None


def _left_s(stage: Mapping[str, Json]) -> float | None:
    done, total, earlier = stage.get("done"), stage.get("total"), stage.get("earlier") or 0
    if stage.get("step") != "evaluate" or not total or not done or done <= earlier:
        return None
    return float((total - done) * (float(stage["time"]) - float(stage["step_began"])) / (done - earlier))


def _so_far(stage: Mapping[str, Json]) -> Iterator[TaskRow]:
    for name, task in (stage.get("tasks") or {}).items():
        yield TaskRow(name, task["metric"] or "", task["mean"], None, "", task["ended"], task["total"])


def _finished(found: Mapping[str, Json]) -> Iterator[TaskRow]:
    for name, entry in results.folded(found).items():
        counts = {status.value: entry["coverage"].get(status.value, 0) for status in Status}
        counts = {status: count for status, count in counts.items() if count}
        total = formatting.total(entry["coverage"])
        for metric, value in entry["metrics"].items():
            interval = formatting.interval(value["ci_low"], value["ci_high"])
            yield TaskRow(name, metric, value["value"], value["stderr"], interval, counts, total)
        if not entry["metrics"]:
            yield TaskRow(name, "", None, None, "", counts, total)


def _facts(
    found: Mapping[str, Json], certificate: Mapping[str, Json], lease: Mapping[str, Json], folder: RunFolder
) -> Iterator[tuple[str, str]]:
    yield "folder", str(folder.path)
    endpoint = found.get("endpoint") or certificate.get("endpoint") or {}
    if endpoint:
        engine = results.engine_name(str(endpoint.get("engine")), found.get("engine") or {})
        yield "served by", f"{endpoint.get('backend')}, engine {engine}, at {endpoint.get('url')}"
    if lease:
        job = f", SLURM job {lease['job_id']}" if lease.get("job_id") else ""
        yield "process", f"{lease.get('pid')} on {lease.get('host')}{job}, since {lease.get('began_at')}"


def _problems(certificate: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    shown = ("failed", "warning", "left out")
    found = [check for check in certificate.get("checks") or [] if check.get("outcome") in shown]
    return sorted(found, key=lambda check: shown.index(check["outcome"]))[:PROBLEMS]


def _replicas(readings: Sequence[Reading]) -> Sequence[Mapping[str, Json]]:
    last = readings[-1].health if readings else None
    found = last.get("replicas") if isinstance(last, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _logs(folder: RunFolder) -> Iterator[tuple[str, str]]:
    found = [*folder.path.glob("*.log"), *folder.path.glob("logs/*.log"), *folder.path.glob("slurm/*.err")]
    dated = sorted(((path.stat().st_mtime, path) for path in found if path.is_file()), reverse=True)
    for _, path in dated[:LOGS]:
        if text := end_of_log(path):
            yield str(path.relative_to(folder.path)), text


def as_values(state: RunState) -> dict[str, object]:
    """Return what the templates read."""
    return {"run": state, "stage": state.stage, "reading": asdict(state.health) if state.health else None}
