"""The samples and the scores of a run as flat rows, of which tables are made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from launcher.core.run_folder import RunFolder
from launcher.core.types import NOT_ASKED, Json, Record
from launcher.report import results
from launcher.report.schema import ResultsFile
from launcher.verdict.flips import question

SCORE = "score."
"""What the columns of a sample's scores begin with, so that no metric takes the name of another column."""
COLUMNS = (
    "task", "id", "repeat", "category", "status", "reason", "question", "prediction", "target", "latency_s",
    "prompt_tokens", "completion_tokens", "notes",
)  # fmt: skip
SCORE_COLUMNS = (
    "task", "metric", "value", "stderr", "ci_low", "ci_high", "n", "low", "high", "higher_is_better", "is_group",
    "scored", "truncated", "refused", "unparsed", "failed", "not_asked", "total",
)  # fmt: skip


def sample_rows(folder: Path) -> Iterator[dict[str, Json]]:
    """Yield a row for each sample, in the order of the file, also for those without a score.

    Raises `ResumeError` for a damaged line.
    """
    return map(sample_row, RunFolder(folder).records())


def sample_row(record: Record) -> dict[str, Json]:
    """Return what a table shows of a sample: `COLUMNS`, and a column for each score; what is not known is None."""
    usage = record.usage if isinstance(record.usage, Mapping) else {}
    values = (
        *(record.task, record.id, record.repeat, record.category),
        *(record.status.value, record.reason, question(record)),
        *(named(record.prediction), named(record.target), record.latency_s),
        *(usage.get("prompt_tokens"), usage.get("completion_tokens"), "\n".join(record.notes) or None),
    )
    return dict(zip(COLUMNS, values, strict=True)) | {f"{SCORE}{name}": score for name, score in record.scores.items()}


def columns_of(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """Return the columns of all rows: `COLUMNS`, then the scores in the order of their first use."""
    return list(dict.fromkeys((*COLUMNS, *(name for row in rows for name in row))))


def score_rows(found: ResultsFile) -> Iterator[dict[str, Json]]:
    """Yield a row for each metric of each group and task, and one without a metric where nothing was scored."""
    groups = found.get("groups") or {}
    every: Mapping[str, Json] = {**groups, **found["tasks"]}
    for name, entry in every.items():
        coverage = entry["coverage"]
        counts = [coverage.get(status, 0) for status in ("scored", "truncated", "refused", "unparsed", "failed")]
        ends = [name in groups, *counts, coverage.get(NOT_ASKED, 0), coverage.get("total")]
        for metric, figures in (entry["metrics"] or {None: {}}).items():
            numbers = [figures.get(key) for key in ("value", "stderr", "ci_low", "ci_high", "n", "low", "high")]
            higher = None if metric is None else figures.get("direction") != "lower"
            yield dict(zip(SCORE_COLUMNS, (name, metric, *numbers, higher, *ends), strict=True))


def text(value: Json) -> str:
    """Write a value of a table as text: a text as it is, nothing for None, JSON for lists and objects."""
    if value is None:
        return ""
    return results.well_formed(value) if isinstance(value, str) else results.encode(value)


def file_names(tasks: Iterable[str]) -> dict[str, str]:
    """Return a name for the file of each task, with a number where two would have the same."""
    found: dict[str, str] = {}
    for task in tasks:
        name = plain = re.sub(r"[^0-9A-Za-z_.-]", "_", task)[:150]
        while name.lower() in map(str.lower, found.values()):
            name = f"{plain}-{len(found)}"
        found[task] = name
    return found


def named(value: Json) -> Json:
    """Return the text of a choice, which has one beside its number."""
    return value["text"] if isinstance(value, Mapping) and isinstance(value.get("text"), str) else value
