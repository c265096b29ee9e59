"""A `Record` as one line of ``samples.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields

from launcher.core.types import Json, Record, Sample, Score, Status


def made(sample: Sample, score: Score, response: Json, latency_s: float, notes: Sequence[str] = ()) -> Record:
    """Return the record of a sample that ended with ``score``; ``response`` is the body as the adapters gave it."""
    return Record(
        task=sample.task,
        id=sample.id,
        repeat=sample.repeat,
        request={"path": sample.request.path, "body": sample.request.body},
        response=response,
        prediction=score.prediction,
        target=sample.target,
        scores=score.scores,
        status=score.status,
        usage=response.get("usage") if isinstance(response, Mapping) else None,
        latency_s=round(latency_s, 6),
        reason=score.reason,
        notes=tuple(notes),
    )


def to_line(record: Record) -> bytes:
    """Return the record as one line of UTF-8 JSON; half surrogate pairs are written as JSON escapes.

    ``notes`` is in it only where there are some.
    """
    values = {field.name: getattr(record, field.name) for field in fields(Record)}
    if not record.notes:
        del values["notes"]
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def from_line(line: bytes) -> Record:
    """Return the record of a line. Raises `ValueError` for anything else."""
    values = json.loads(line)
    if not isinstance(values, dict) or {"notes", *values} != {field.name for field in fields(Record)}:
        raise ValueError("not a sample's record")
    return Record(**{**values, "status": Status(values["status"]), "notes": tuple(values.get("notes", ()))})
