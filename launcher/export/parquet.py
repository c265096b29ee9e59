"""Parquet: ``scores.parquet`` and ``samples.parquet``, with one type for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.core.types import Json
from launcher.export import rows
from launcher.export.source import SCORE_COLUMNS, Source

WHOLE = ("repeat", "prompt_tokens", "completion_tokens", "n", "scored", "truncated", "refused", "unparsed", "failed",
         "not_asked", "total")  # fmt: skip
NUMBERS = ("latency_s", "value", "stderr", "ci_low", "ci_high", "low", "high")
TRUTHS = ("higher_is_better", "is_group")
EXACT = 2**53
"""Up to here, a float holds every whole number."""


def write(source: Source, folder: Path) -> list[Path]:
    """Write both tables. A score that a float cannot hold exactly makes its column one of texts."""
    samples = [rows.sample_row(record) for record in source.records()]
    return [
        _write(folder / "scores.parquet", SCORE_COLUMNS, source.scores()),
        _write(folder / "samples.parquet", rows.columns_of(samples), samples),
    ]


def _write(path: Path, columns: Sequence[str], found: Sequence[Mapping[str, Json]]) -> Path:
    import pyarrow as arrow
    from pyarrow import parquet

    arrays = {name: _column(arrow, name, [row.get(name) for row in found]) for name in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    parquet.write_table(arrow.table(arrays), beside)
    return beside.replace(path)


def _column(arrow: Any, name: str, values: list[Json]) -> Any:
    if name in TRUTHS:
        return arrow.array(values, arrow.bool_())
    if name in WHOLE and all(value is None or _is_whole(value) for value in values):
        return arrow.array(values, arrow.int64())
    if name in NUMBERS or (name.startswith(rows.SCORE) and all(map(_is_number, values))):
        return arrow.array([None if value is None else float(value) for value in values], arrow.float64())
    return arrow.array([None if value is None else rows.text(value) for value in values], arrow.string())


def _is_whole(value: Json) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_number(value: Json) -> bool:
    if value is None or isinstance(value, float):
        return True
    return isinstance(value, int) and (isinstance(value, bool) or abs(value) <= EXACT)
