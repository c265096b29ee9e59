"""What the harnesses of a run ended with, kept in its folder: a finished one is not run again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from launcher.core.errors import ResumeError, UserError
from launcher.core.files import read_json, replace_json
from launcher.core.redaction import redact_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import NOT_ASKED, Aggregation, Direction, Interval, Json, MetricResult, Status, TaskResult
from launcher.report.results import plain
from launcher.tasks.base import Task
from launcher.tasks.harness.base import Harness
from launcher.tasks.harness.measured import Measured, Measurement, SampleCounts

SCHEMA_VERSION = 1
UNKNOWN_N = "the harness does not say how many samples it scored; it counts as one"


@dataclass(frozen=True)
class Outcome:
    """How the command of a harness ended. ``fault`` says why it has no result, None where it has one.

    ``requests`` is how many completions the endpoint answered. ``lost`` is how many got an error, or were given
    up by the harness. Both are of all sessions that did not end before their outcome.
    """

    command: tuple[str, ...]
    exit_code: int
    seconds: float
    requests: int
    measured: Measured | None = None
    fault: str | None = None
    notes: tuple[str, ...] = field(default=())
    lost: int = 0

    @property
    def finished(self) -> bool:
        return self.measured is not None


@dataclass(frozen=True)
class HarnessFolder:
    """The files of one harness in a run folder."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "harness.log"

    @property
    def output(self) -> Path:
        return self.path / "output"

    @property
    def outcome(self) -> Path:
        return self.path / "harness.json"


def folder(run: Path, name: str) -> HarnessFolder:
    """Return the folder of the harness ``name``."""
    plain = re.fullmatch(r"\w[\w.-]*", name) is not None
    return HarnessFolder(RunFolder(run).harness / (name if plain else quote(name, safe="").replace(".", "%2E")))


def write(run: Path, name: str, outcome: Outcome) -> None:
    """Keep an outcome."""
    values = plain({"schema_version": SCHEMA_VERSION, **asdict(outcome)})
    replace_json(folder(run, name).outcome, redact_json(values), indent=2)


def read(run: Path, name: str) -> Outcome | None:
    """Return the outcome of a harness, None for one that has not ended. Raises `ResumeError`."""
    path = folder(run, name).outcome
    try:
        found = read_json(path)
        return None if found is None else _outcome(found)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResumeError(
            f"{path}: not the outcome of a harness ({error!r}); delete it to run the harness again"
        ) from None


def _outcome(found: Json) -> Outcome:
    if found.pop("schema_version") != SCHEMA_VERSION:
        raise ValueError("another schema_version")
    measured = found.pop("measured")
    found |= {name: tuple(found[name]) for name in ("command", "notes")}
    return Outcome(**found, measured=None if measured is None else _measured(measured))


def _measured(found: Json) -> Measured:
    metrics = {name: _measurement(**one) for name, one in found.pop("metrics").items()}
    samples = found.pop("samples")
    notes = tuple(found.pop("notes"))
    return Measured(**found, metrics=metrics, samples=samples and SampleCounts(**samples), notes=notes)


def _measurement(value: float, stderr: float | None, n: int | None, direction: str) -> Measurement:
    return Measurement(value, math.nan if stderr is None else stderr, n, Direction(direction))


def results(run: Path, tasks: Mapping[str, Task]) -> dict[str, TaskResult]:
    """Return the results of the harnesses among ``tasks``. Raises `ResumeError`."""
    return {name: _result(read(run, name)) for name, task in tasks.items() if isinstance(task, Harness)}


def _result(outcome: Outcome | None) -> TaskResult:
    if outcome is None:
        return TaskResult({}, _coverage(not_asked=1))
    facts = {name: getattr(outcome, name) for name in ("exit_code", "seconds", "requests")}
    facts |= {"command": list(outcome.command), "samples": None}
    if outcome.measured is None:
        reasons = {Status.failed.value: {str(outcome.fault): 1}}
        return TaskResult({}, _coverage(failed=1), reasons, _notes(outcome.notes), harness=facts)
    return _finished(outcome, outcome.measured, facts)


def _finished(outcome: Outcome, measured: Measured, facts: dict[str, Json]) -> TaskResult:
    samples = measured.samples
    notes = [*outcome.notes, *measured.notes, *([] if samples else [UNKNOWN_N])]
    facts |= {"samples": samples and samples.total, "source": measured.source}
    counts = samples or SampleCounts(1)
    coverage = _coverage(scored=counts.scored, failed=counts.failed, unparsed=counts.unparsed)
    lost = {Status.failed.value: counts.failed, Status.unparsed.value: counts.unparsed}
    reasons = {status: {why: lost.get(status, 1)} for status, why in measured.reasons.items()}
    metrics = {name: _metric(one, whole=counts.scored == counts.total) for name, one in measured.metrics.items()}
    return TaskResult(metrics, coverage, reasons, _notes(notes), harness=facts)


def _metric(found: Measurement, *, whole: bool) -> MetricResult:
    """Return a metric as the harness says it; it gives no interval, and no bounds where samples are missing."""
    bound = found.value if whole else math.nan
    return MetricResult(
        found.value, found.stderr, math.nan, math.nan, found.n, bound, bound,
        found.direction, Interval.none, Aggregation.corpus, (None, None),
    )  # fmt: skip


def _coverage(**counts: int) -> dict[str, int]:
    ended = {status.value: counts.get(status.value, 0) for status in Status}
    not_asked = counts.get(NOT_ASKED, 0)
    return {**ended, NOT_ASKED: not_asked, "total": sum(ended.values()) + not_asked}


def _notes(notes: tuple[str, ...] | list[str]) -> dict[str, int]:
    return dict.fromkeys(notes, 1)
