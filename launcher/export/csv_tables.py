"""CSV: ``scores.csv`` and ``samples.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from launcher.core.files import replace
from launcher.core.types import Json
from launcher.export import rows
from launcher.export.source import SCORE_COLUMNS, Source


def write(source: Source, folder: Path) -> list[Path]:
    """Write both tables; a cell is empty where nothing is known."""
    samples = [rows.sample_row(record) for record in source.records()]
    return [
        replace(folder / "scores.csv", _table(SCORE_COLUMNS, source.scores())),
        replace(folder / "samples.csv", _table(rows.columns_of(samples), samples)),
    ]


def _table(columns: Sequence[str], found: Iterable[Mapping[str, Json]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([rows.text(row.get(name)) for name in columns] for row in found)
    return text.getvalue()
