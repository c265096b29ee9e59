"""Reads ``samples.jsonl`` for the report's table."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from launcher.core.records import from_line, to_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record
from launcher.report.results import encode, well_formed
from launcher.stats.overview import Group, Overview

CHARACTERS = 6_000_000
"""At most this much JSON is embedded in a page."""
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


@dataclass(frozen=True)
class Rows:
    """The samples that a page shows, as JSON texts in the order of the file, and how many of each group these are.

    A text is the line of the sample, or what is left of a long one.
    """

    texts: list[str]
    counts: dict[Group, int]


def gather(folder: Path) -> Overview:
    """Read the samples of a run folder once. Raises `ResumeError` for a damaged line."""
    overview = Overview(RunFolder(folder).samples_version())
    for line in RunFolder(folder).placed_records():
        if line.is_last:
            overview.add(line.start, line.record)
    return overview


def rows(folder: Path, overview: Overview) -> Rows:
    """Return the samples to show, as far as they fit: each group may fill what those before it leave.

    Raises `ResumeError`, also for a file that was replaced since it was read.
    """
    found, counts, left = list[tuple[int, str]](), dict.fromkeys(Group, 0), CHARACTERS
    chosen = {group: starts for group, starts in overview.chosen().items() if starts}
    for place, (group, starts) in enumerate(chosen.items(), 1):
        spared = (len(chosen) - place) * CHARACTERS // 5
        for start, text in zip(starts, map(_text, RunFolder(folder).lines_at(starts)), strict=True):
            if len(text) > left - spared:
                break
            found.append((start, text))
            counts[group] += 1
            left -= len(text)
    return Rows([text for _, text in sorted(found)], counts)


def _text(line: bytes) -> str:
    """Return a line as it is if it is short and strict JSON, else its record with shorter fields."""
    if len(line) <= TEXT:
        with suppress(ValueError):
            orjson.loads(line)
            return line.decode().rstrip("\n")
    return _row(from_line(line))


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
