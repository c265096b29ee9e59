"""Run folders as an evaluation leaves them, for tests of verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.core.types import Json, Record, Report, TaskResult
from launcher.report import results
from tests.report.report_records import RUN, record, report, write_samples

VERSIONS = {"launcher": "0.1.0", "lm-eval": "0.4.13", "torch": "2.13.0"}


def run_folder(
    folder: Path,
    records: list[Record],
    *,
    model: str = "base",
    tasks: dict[str, Json] | None = None,
    evaluate: dict[str, Json] | None = None,
    versions: dict[str, str] | None = None,
    answers_from: str | None = None,
    tasks_found: Mapping[str, TaskResult] | None = None,
    **changes: Any,
) -> Path:
    """Write the results, the samples and the journal of a finished run."""
    write_samples(folder, records)
    changes |= {} if tasks_found is None else {"tasks": tasks_found}
    made: Report = report(records, run={**RUN, "versions": {**VERSIONS, **(versions or {})}}, **changes)
    results.write(made, folder)
    settings = tasks or {task: {"settings": {"limit": None}, "items": "d1"} for task in {row.task for row in records}}
    fingerprint = {
        "checkpoint": f"sha256:{model}",
        "model": {"name": model},
        "engine": {},
        "backend": {},
        "dtype": "auto",
        "adapters": [],
        "tasks": settings,
        "evaluate": {"temperature": None, "seed": None, **(evaluate or {})},
    }
    if answers_from is not None:
        fingerprint["answers_from"] = answers_from
    (folder / "journal.json").write_text(json.dumps({"schema_version": 1, "fingerprint": fingerprint}))
    return folder


def answered(right: set[int], count: int = 100, **changes: Any) -> list[Record]:
    """The records of a run that got the questions of ``right`` right."""
    return [record(number, right=number in right, **changes) for number in range(count)]
