"""``results.json``: a `Report` as the file that scripts rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path

from launcher.core.errors import CoverageTooLow, UserError, ValidationFailed
from launcher.core.files import read_json, replace
from launcher.core.run_folder import RunFolder
from launcher.core.types import INTERRUPTED, Check, Endpoint, Json, Report, TaskResult

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("results.schema.json")
"""The JSON Schema (draft 2020-12) of ``results.json``."""

CODES = {
    "ok": 0,
    "invalid": ValidationFailed.exit_code,
    "incomplete": CoverageTooLow.exit_code,
    "interrupted": INTERRUPTED,
}
"""The exit code of a run by the status of its report; that of others is 1."""


def to_json(report: Report) -> dict[str, Json]:
    """Return ``results.json`` as a dictionary; a number that is not finite becomes None."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": report.status,
        "reason": report.reason,
        "run": plain(report.run),
        "endpoint": _endpoint(report.endpoint),
        "engine": plain(report.engine),
        "tasks": {name: _task(result) for name, result in report.tasks.items()},
        "throughput": plain(report.throughput),
        "timings": plain(report.timings),
        "pauses": [plain(asdict(pause)) for pause in report.pauses],
        "certificate": certificate(report.checks),
    }


def write(report: Report, folder: Path) -> Path:
    """Write ``results.json`` into ``folder`` in one step: a reader sees the old file or the whole new one."""
    return replace(RunFolder(folder).results, encode(to_json(report), indent=2) + "\n")


def read(folder: Path) -> dict[str, Json]:
    """Return ``folder/results.json``.

    Raises `UserError` that names the file when it is missing, is not JSON, or has another ``schema_version``.
    """
    path = RunFolder(folder).results
    found = read_json(path)
    if found is None:
        raise UserError(f"{path}: there is no such file")
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}")
    return dict(found)


def certificate(checks: tuple[Check, ...]) -> dict[str, Json] | None:
    """Count the checks of the certificate and name the failed ones; None when none were made."""
    if not checks:
        return None
    failed = [check for check in checks if check.ok is False]
    return {
        "ok": not failed,
        "passed": sum(check.ok is True for check in checks),
        "failed": len(failed),
        "not_applicable": sum(check.ok is None for check in checks),
        "failed_checks": [check.name for check in failed],
        "failed_check_ids": [check.id for check in failed],
    }


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


def _endpoint(endpoint: Endpoint | None) -> dict[str, str] | None:
    """Leave out the API key."""
    if endpoint is None:
        return None
    return {"url": endpoint.url, "model": endpoint.model, "backend": endpoint.backend, "engine": endpoint.engine}


def _task(result: TaskResult) -> dict[str, Json]:
    return {
        "metrics": {name: plain(asdict(metric)) for name, metric in result.metrics.items()},
        "coverage": dict(result.coverage),
        "reasons": plain(result.reasons),
        **({"notes": plain(result.notes)} if result.notes else {}),
    }
