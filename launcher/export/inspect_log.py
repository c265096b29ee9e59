"""Logs of Inspect: one ``<task>.eval`` for each task, which ``inspect view`` and `read_eval_log` read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from launcher.core.console import printable
from launcher.core.types import Aggregation, Json, Record, Status
from launcher.export import rows
from launcher.export.lm_eval import texts_of
from launcher.export.source import Source
from launcher.report import results
from launcher.report.schema import TaskEntry

STATUSES = {"ok": "success", "interrupted": "cancelled"}
"""How Inspect calls the end of a run; any other is an error."""


def write(source: Source, folder: Path) -> list[Path]:
    """Write a log for each task. A sample that was not scored has no score, and its reason as an error."""
    from inspect_ai.log import write_eval_log

    records: dict[str, list[Record]] = {name: [] for name in source.results["tasks"]}
    for record in source.records():
        records.setdefault(record.task, []).append(record)
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for task, name in rows.file_names(records).items():
        path = folder / f"{name}.eval"
        beside = path.with_name(f"part-{path.name}")
        write_eval_log(_log(source, task, records[task]), str(beside), format="eval")
        written.append(beside.replace(path))
    return written


def _log(source: Source, task: str, records: list[Record]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats

    found, entry = source.results, source.results["tasks"].get(task)
    ended, began = source.ended, source.ended - timedelta(seconds=source.seconds)
    coverage = entry["coverage"] if entry else {}
    total = coverage.get("total", len(records))
    return EvalLog(
        status=STATUSES.get(found["status"], "error"),  # type: ignore[arg-type]
        eval=EvalSpec(
            created=began.isoformat(),
            task=task,
            task_id=task,
            run_id=source.name,
            dataset=EvalDataset(name=task, samples=total, sample_ids=list(dict.fromkeys(_ids(records)))),
            model=f"openai-api/launcher/{source.model}",
            model_base_url=source.url,
            config=EvalConfig(epochs=1 + max((each.repeat for each in records), default=0)),
            packages=dict(source.versions),
            metadata={"launcher": {"status": found["status"], "reason": found["reason"], "coverage": coverage}},
        ),
        results=EvalResults(
            total_samples=total,
            completed_samples=sum(each.status is not Status.failed for each in records),
            scores=_scores(entry) if entry else [],
        ),
        stats=EvalStats(started_at=began.isoformat(), completed_at=ended.isoformat()),
        error=None if found["status"] in STATUSES else _error(found["reason"] or found["status"]),
        samples=[_sample(source, each, name) for each, name in zip(records, _ids(records), strict=True)],
    )


def _ids(records: list[Record]) -> list[str]:
    """Return the ids, each as part of a file's name in the log, which must be one and have no control characters."""
    names: dict[str, str] = {}
    for each in records:
        if each.id not in names:
            plain = results.well_formed(printable(each.id)).replace("/", "_").replace("\n", " ")[:200]
            names[each.id] = f"{plain} #{len(names)}" if plain in names.values() else plain
    return [names[each.id] for each in records]


MEANS = (Aggregation.mean.value, Aggregation.items.value)
"""The aggregations whose value is a mean over samples or items; that of another has its own name."""


def _scores(entry: TaskEntry) -> list[Any]:
    from inspect_ai.log import EvalMetric, EvalScore

    lost = entry["coverage"].get("total", 0) - entry["coverage"].get("scored", 0)
    made = []
    for name, one in entry["metrics"].items():
        numbers: Mapping[str, float | None] = {key: one[key] for key in ("value", "stderr", "ci_low", "ci_high")}
        names = {"value": "mean"} if one["aggregation"] in MEANS else {}
        metrics = {
            names.get(key, key): EvalMetric(name=names.get(key, key), value=math.nan if value is None else value)
            for key, value in numbers.items()
        }
        made.append(EvalScore(name=name, scorer=name, scored_samples=one["n"], unscored_samples=lost, metrics=metrics))
    return made


def _sample(source: Source, record: Record, name: str) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    answer = rows.text(record.prediction)
    texts = [text for response in record.responses for text in texts_of(response)]
    lost = record.status is not Status.scored
    return EvalSample(
        id=name,
        epoch=record.repeat + 1,
        input=rows.text(rows.sample_row(record)["question"]),
        choices=_choices(record.target),
        target=rows.text(rows.named(record.target)),
        output=ModelOutput.from_content(source.model, results.well_formed(texts[0] if texts else "")),
        scores=None if lost else {name: Score(value=_value(one), answer=answer) for name, one in record.scores.items()},
        metadata={
            "id": rows.text(record.id),
            "status": record.status.value,
            "reason": rows.text(record.reason),
            "notes": list(record.notes),
        },
        total_time=record.latency_s,
        error=_error(f"{record.status.value}: {rows.text(record.reason)}") if lost else None,
    )


def _metadata(record: Record) -> dict[str, Json]:
    about = {"id": rows.text(record.id), "status": record.status.value, "reason": rows.text(record.reason)}
    return {**about, "notes": list(record.notes)}


def _error(message: str) -> Any:
    from inspect_ai.log import EvalError

    text = results.well_formed(message)
    return EvalError(message=text, traceback=text, traceback_ansi=text)


def _choices(target: Json) -> list[str] | None:
    found = target.get("choices") if isinstance(target, Mapping) else None
    return [rows.text(each) for each in found] if isinstance(found, list) else None


def _value(value: Json) -> str | int | float | bool:
    """Return a score as Inspect stores it: a number as it is, anything else as text."""
    return value if isinstance(value, bool | int | float | str) else rows.text(value)
