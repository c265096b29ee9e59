"""What a reader finds in the result file of a harness."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.console import one_line
from launcher.core.types import Direction, Json

MAX_BYTES = 2**30
"""The largest result file that is read."""

Identity = tuple[int, int, int]


class ResultError(Exception):
    """A result file that is missing or cannot be read, or a value in it that is no number; one line."""


@dataclass(frozen=True)
class Measurement:
    """A metric as the harness says it. An unknown ``stderr`` is NaN, an unknown number of samples ``n`` is None."""

    value: float
    stderr: float = math.nan
    n: int | None = None
    direction: Direction = Direction.higher


@dataclass(frozen=True)
class SampleCounts:
    """How many samples the harness had, and how many of them it scored; the others failed or have no score."""

    total: int
    failed: int = 0
    unparsed: int = 0

    @property
    def scored(self) -> int:
        return self.total - self.failed - self.unparsed


@dataclass(frozen=True)
class Measured:
    """The metrics, the main one first. ``samples`` is None where the harness does not count them.

    ``reasons`` say why samples were lost, by status; ``notes`` what is odd.
    """

    metrics: Mapping[str, Measurement]
    samples: SampleCounts | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""


def number(value: Json, where: str) -> float:
    """Return a number that is finite. Raises `ResultError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ResultError(f"{where} is {one_line(repr(value), 60)}, expected a finite number")
    return float(value)


def count(value: Json, where: str) -> int:
    """Return a whole number of at least 0. Raises `ResultError`."""
    found = number(value, where)
    if found < 0 or found != int(found):
        raise ResultError(f"{where} is {value!r}, expected a whole number of at least 0")
    return int(found)


def snapshot(pattern: str) -> dict[Path, Identity]:
    """Return the files that a pattern names, each with what changes when it is written again."""
    found: dict[Path, Identity] = {}
    for path in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207  (the pattern holds the folder)
        if path.is_file():
            stat = path.stat()
            found[path] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def written(pattern: str, before: Mapping[Path, Identity]) -> Path:
    """Return the file of a pattern that was written since ``before``, of several the last. Raises `ResultError`."""
    now = snapshot(pattern)
    new = [path for path, identity in now.items() if before.get(path) != identity]
    if not new:
        why = "it was written before this command ran" if now else "there is no such file"
        raise ResultError(f"the result file {pattern}: {why}")
    return max(new, key=lambda path: (now[path][1], str(path)))


def read(path: Path) -> Json:
    """Return the JSON document in a file, or the list of its JSON lines. Raises `ResultError`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ResultError(f"the result file {path}: it is larger than {MAX_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"the result file {path}: {error}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _lines(text, path, error)


def _lines(text: str, path: Path, whole: Exception) -> Json:
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        found = []
    if len(found) < 2:
        raise ResultError(f"the result file {path}: it is no JSON: {one_line(str(whole))}") from None
    return found
