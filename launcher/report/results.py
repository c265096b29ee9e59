"""``results.json``: a `Report` as the file that scripts rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path

from launcher.core.errors import CoverageTooLow, UserError, ValidationFailed
from launcher.core.files import read_json, replace
from launcher.core.run_folder import RunFolder
from launcher.core.types import (
    INTERRUPTED,
    Aggregation,
    Check,
    Direction,
    Endpoint,
    GroupResult,
    Interval,
    Json,
    MetricResult,
    Outcome,
    Report,
    TaskResult,
)
from launcher.report.schema import (
    VERSION,
    CertificateEntry,
    CheckEntry,
    EndpointEntry,
    GroupEntry,
    MetricEntry,
    ResultsFile,
    TaskEntry,
)

SCHEMA = Path(__file__).with_name("results.schema.json")
"""The JSON Schema (draft 2020-12) of ``results.json``."""

CODES = {
    "ok": 0,
    "invalid": ValidationFailed.exit_code,
    "incomplete": CoverageTooLow.exit_code,
    "interrupted": INTERRUPTED,
}
"""The exit code of a run by the status of its report; that of others is 1."""


def to_json(report: Report) -> ResultsFile:
    """Return the contents of ``results.json``; a number that is not finite becomes None."""
    found: ResultsFile = {
        "schema_version": VERSION,
        "status": report.status,
        "reason": report.reason,
        "run": plain(report.run),
        "endpoint": _endpoint(report.endpoint),
        "engine": plain(report.engine),
        "groups": {name: _group(group) for name, group in report.groups.items()},
        "tasks": {name: _task(result) for name, result in report.tasks.items()},
        "throughput": plain(report.throughput),
        "timings": plain(report.timings),
        "pauses": [plain(asdict(pause)) for pause in report.pauses],
        "certificate": certificate(report.checks),
    }
    if report.load:
        found["load"] = plain(report.load)
    if report.health:
        found["health"] = plain(report.health)
    if report.load_left_out:
        found["load_left_out"] = report.load_left_out
    return found


def write(report: Report, folder: Path) -> Path:
    """Write ``results.json`` into ``folder`` in one step: a reader sees the old file or the whole new one."""
    return replace(RunFolder(folder).results, encode(to_json(report), indent=2) + "\n")


NEEDED = ("status", "reason", "run", "endpoint", "tasks", "groups", "throughput", "certificate")
"""The keys without which ``results.json`` is none: its readers rely on them."""


def read(folder: Path) -> ResultsFile:
    """Return ``folder/results.json``.

    Raises `UserError` that names the file when it is missing, is not JSON, or has another ``schema_version``.
    """
    path = RunFolder(folder).results
    found = read_json(path)
    if found is None:
        raise UserError(f"{path}: there is no such file")
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path}: schema_version is {version!r}, expected {VERSION}; "
            f"resume={folder} writes it again from the samples that are there"
        )
    if missing := [key for key in NEEDED if key not in found]:
        raise UserError(f"{path}: it has no {', '.join(missing)}; resume={folder} writes it again from the samples")
    whole: ResultsFile = found
    return whole


def metric_result(entry: MetricEntry) -> MetricResult:
    """Return the metric of an entry, with NaN for what is not known."""
    values: dict[str, Json] = {name: math.nan if value is None else value for name, value in entry.items()}
    kinds = {"direction": Direction, "interval": Interval, "aggregation": Aggregation, "range": tuple}
    return MetricResult(**{name: kinds[name](value) if name in kinds else value for name, value in values.items()})


def folded(found: Mapping[str, Json]) -> dict[str, TaskEntry]:
    """Return the lines of a table: the groups that are in no other group, and the tasks that are in none.

    ``found`` has the ``tasks`` and ``groups`` of `ResultsFile`.
    """
    groups: Mapping[str, GroupEntry] = found.get("groups") or {}
    inside = {member for group in groups.values() for member in group["members"]}
    return {name: entry for name, entry in {**groups, **found["tasks"]}.items() if name not in inside}


def metric_entry(found: Mapping[str, Json], name: str, metric: str) -> MetricEntry | None:
    """Return the metric of a task or group; None where it has none."""
    entry = folded(found).get(name) or found["tasks"].get(name)
    return entry["metrics"].get(metric) if entry else None


def lower_is_better(points: Iterable[Mapping[str, Json]], task: str, metric: str) -> bool:
    """Tell whether less of a metric is better, as the first of the points that has it says."""
    entries = (metric_entry(point, task, metric) for point in points)
    found = next((entry for entry in entries if entry), None)
    return found is not None and found["direction"] == Direction.lower.value


def certificate(checks: tuple[Check, ...]) -> CertificateEntry | None:
    """Count the checks of the certificate and name those that did not pass; None when none were made."""
    if not checks:
        return None
    by_outcome = {outcome: _entries(checks, outcome) for outcome in Outcome}
    return {
        "ok": not by_outcome[Outcome.failed],
        "passed": len(by_outcome[Outcome.passed]),
        "failed": len(by_outcome[Outcome.failed]),
        "warnings": len(by_outcome[Outcome.warning]),
        "not_applicable": len(by_outcome[Outcome.not_applicable]),
        "left_out": len(by_outcome[Outcome.left_out]),
        "not_needed": sum(check.unneeded for check in checks),
        "failed_checks": by_outcome[Outcome.failed],
        "warned_checks": by_outcome[Outcome.warning],
        "left_out_checks": by_outcome[Outcome.left_out],
    }


def _entries(checks: tuple[Check, ...], outcome: Outcome) -> list[CheckEntry]:
    return [{"id": check.id, "name": check.name} for check in checks if check.outcome is outcome]


UNKNOWN = "unknown"
"""The engine of an endpoint whose configuration does not say it."""


def engine_name(endpoint: str, said: Mapping[str, Json]) -> str:
    """Return the engine of an endpoint: what its server ``said`` of itself, where it is otherwise unknown."""
    return str(said.get("engine") or endpoint) if endpoint == UNKNOWN else endpoint


def only_checked(run: Mapping[str, Json]) -> bool:
    """Tell whether a run was to check or serve an endpoint, and to evaluate nothing."""
    config = run.get("config")
    return isinstance(config, Mapping) and config.get("mode") in ("validate", "serve", "proxy")


def plain(value: Json) -> Json:
    """Return ``value`` made of what JSON knows: text keys, no NaN or infinity, no enums or paths."""
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def encode(value: Json, indent: int | None = None) -> str:
    """Return ``value`` as readable JSON that UTF-8 can hold."""
    return well_formed(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent))


def well_formed(text: str) -> str:
    """Return ``text`` with U+FFFD for halves of surrogate pairs, which JSON can name but UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _endpoint(endpoint: Endpoint | None) -> EndpointEntry | None:
    """Leave out the API key."""
    if endpoint is None:
        return None
    return {"url": endpoint.url, "model": endpoint.model, "backend": endpoint.backend, "engine": endpoint.engine}


def _group(group: GroupResult) -> GroupEntry:
    members: list[str] = list(group.members)
    return {"members": members, "weight": group.weight, "missing": list(group.missing), **_task(group.result)}


def _metric(metric: MetricResult) -> MetricEntry:
    entry: MetricEntry = plain(asdict(metric))
    if metric.function is None:
        del entry["function"]
    return entry


def _task(result: TaskResult) -> TaskEntry:
    entry: TaskEntry = {
        "metrics": {name: _metric(metric) for name, metric in result.metrics.items()},
        "coverage": dict(result.coverage),
        "reasons": plain(result.reasons),
    }
    if result.notes:
        entry["notes"] = plain(result.notes)
    if result.retried:
        entry["retried"] = plain(result.retried)
    if result.harness:
        entry["harness"] = plain(result.harness)
    if result.early_stop:
        entry["early_stop"] = plain(result.early_stop)
    if result.categories:
        found = {name: _task(each) for name, each in result.categories.items()}
        entry["categories"] = {
            name: {"metrics": each["metrics"], "coverage": each["coverage"]} for name, each in found.items()
        }
    return entry
