"""Reads ``samples.jsonl`` for the report's table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.records import to_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record, Status
from launcher.report.results import encode, well_formed

ROWS = 5_000
"""At most this many samples are embedded in a page."""
CHARACTERS = 24_000_000
"""At most about this much JSON is embedded in a page."""
RESERVED = 500
"""Rows kept for scored samples when those that were not scored could fill the whole table."""
TEXT = 20_000
"""A longer text is cut in the middle."""
ITEMS = 200
"""A longer list is cut at the end."""
FIELD = 100_000
"""A field whose JSON is still longer after that is shown as the cut text of its JSON."""
DEPTH = 50
"""Lists and objects inside more than this many others are left out."""

COLUMNS = (
    "task", "id", "repeat", "status", "scores", "latency_s", "usage", "prediction", "target", "reason", "request",
    "response",
)  # fmt: skip


@dataclass
class RowBuffer:
    """The first rows of one kind, as JSON texts with their line numbers, until it is full."""

    rows: list[tuple[int, str]] = field(default_factory=list)
    characters: int = 0
    seen: int = 0

    def add(self, line: int, record: Record) -> None:
        self.seen += 1
        if len(self.rows) < ROWS and self.characters < CHARACTERS:
            row = _row(record)
            self.rows.append((line, row))
            self.characters += len(row)

    def first(self, rows: int, characters: int) -> list[tuple[int, str]]:
        """Return the first rows that fit into ``rows`` and ``characters``."""
        fitting: list[tuple[int, str]] = []
        for line, text in self.rows[: max(0, rows)]:
            characters -= len(text)
            if characters < 0:
                break
            fitting.append((line, text))
        return fitting


@dataclass
class Samples:
    """What the page needs of ``samples.jsonl``: a subset of its rows, and the latencies of all.

    ``latencies`` are seconds by task, of every sample that was answered.
    """

    scored: RowBuffer = field(default_factory=RowBuffer)
    lost: RowBuffer = field(default_factory=RowBuffer)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.scored.seen + self.lost.seen

    def shown(self) -> tuple[list[str], int]:
        """Return the rows to embed, in the file's order, and how many of them were not scored.

        Samples that were not scored come first; at least `RESERVED` rows and a fifth of the space stay for scored
        ones, if there are any. The rest is filled with the first scored samples of the file.
        """
        spared = min(RESERVED, self.scored.seen)
        lost = self.lost.first(ROWS - spared, CHARACTERS * 4 // 5 if spared else CHARACTERS)
        left = CHARACTERS - sum(len(row) for _, row in lost)
        rows = sorted(lost + self.scored.first(ROWS - len(lost), left))
        return [row for _, row in rows], len(lost)


def gather(folder: Path) -> Samples:
    """Read the samples of a run folder once. Raises `ResumeError` for a damaged line."""
    samples = Samples()
    for line, record in enumerate(RunFolder(folder).records()):
        rows = samples.scored if record.status is Status.scored else samples.lost
        rows.add(line, record)
        _time(record, samples.latencies)
    return samples


def _row(record: Record) -> str:
    values = to_json(record)
    return "{" + ", ".join(f'"{name}": {_field(values.get(name))}' for name in COLUMNS) + "}"


def _field(value: Json) -> str:
    """Return the JSON of ``shorten(value)``; most values need no shortening, and are encoded as they are."""
    try:
        text = well_formed(_ENCODER.encode(value))
    except (ValueError, TypeError, RecursionError):  # such as NaN, which `encode` replaces
        return encode(shorten(value))
    return text if len(text) <= FIELD and _fits(value, len(text) > TEXT) else encode(shorten(value))


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _fits(value: Json, texts: bool) -> bool:
    """Tell whether no list, no object and no nesting in a value is cut; with ``texts``, whether no text is either."""
    level: list[Json] = [[value]]
    for _ in range(DEPTH):
        inner = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        if texts and any(isinstance(item, str) and len(item) > TEXT for item in inner):
            return False
        level = [item for item in inner if isinstance(item, list | tuple | dict)]
        if any(len(item) > ITEMS for item in level):
            return False
        if not level:
            return True
    return False


def shorten(value: Json) -> Json:
    """Return ``value`` without the middle of long texts and the end of long lists, with a note of what is left out."""
    short = _shorten(value, depth=0)
    if isinstance(short, str) or len(text := encode(short)) <= FIELD:
        return short
    return _cut(text)


def _shorten(value: Json, depth: int) -> Json:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, list | dict) and depth > DEPTH:
        return f"… nested more deeply; {RunFolder.samples} has it all"
    if isinstance(value, list):
        items = [_shorten(item, depth + 1) for item in value[:ITEMS]]
        return (
            items
            if len(value) <= ITEMS
            else [*items, f"… {len(value) - ITEMS:,} more; {RunFolder.samples} has them all"]
        )
    if isinstance(value, dict):
        pairs = {key: _shorten(value[key], depth + 1) for key in list(value)[:ITEMS]}
        return pairs if len(value) <= ITEMS else {**pairs, "…": f"{len(value) - ITEMS:,} more in {RunFolder.samples}"}
    return value


def _cut(text: str) -> str:
    if len(text) <= TEXT:
        return text
    head, tail = text[: TEXT * 3 // 4], text[-TEXT // 4 :]
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n\n[… {left_out:,} characters left out here; {RunFolder.samples} has them all …]\n\n{tail}"


def _time(record: Record, latencies: dict[str, list[float]]) -> None:
    """Keep the latency of a sample that got an answer."""
    if record.status is not Status.failed and math.isfinite(record.latency_s) and record.latency_s >= 0:
        latencies.setdefault(record.task, []).append(record.latency_s)
