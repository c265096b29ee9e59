"""Reads all logs of a run as one: the lines of its processes, in the order of their times."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from launcher.core.logs import KEPT, rotated
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json

SUFFIXES = (".log", ".out", ".err")
SKIPPED = frozenset({RunFolder.hydra.name, RunFolder.failed.name, "output", "lm_eval"})
"""Folders without logs of ours."""
DEPTH = 3
LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, order=True)
class Line:
    """A line of a log: its time in UTC (ISO 8601), and what it says. ``more`` are its other fields."""

    time: str
    level: str = field(compare=False)
    process: str = field(compare=False)
    event: str = field(compare=False)
    request_id: str | None = field(compare=False, default=None)
    more: Json = field(compare=False, default=None)

    def as_json(self) -> dict[str, Json]:
        fields = {"time": self.time, "level": self.level, "process": self.process, "event": self.event}
        return fields | ({"request_id": self.request_id} if self.request_id else {}) | dict(self.more or {})


def files(folder: Path) -> list[Path]:
    """Return the logs in a run folder and below, without those that were rotated away, each once."""
    found = dict[Path, Path]()
    for path, folders, names in os.walk(folder):
        depth = len(Path(path).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name not in SKIPPED and depth < DEPTH)
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                found.setdefault((Path(path) / name).resolve(), Path(path) / name)
    return sorted(found.values())


def merged(paths: Iterable[Path], folder: Path) -> Iterator[Line]:
    """Yield the lines of logs, with those that were rotated away, in the order of their times."""
    return heapq.merge(*(_whole(path, name_of(path, folder)) for path in paths))


def name_of(path: Path, folder: Path) -> str:
    """Return what the process of a log is called whose lines do not say it."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _whole(path: Path, name: str) -> Iterator[Line]:
    for number in range(KEPT, -1, -1):
        place = rotated(path, number) if number else path
        with suppress(OSError), place.open("rb") as file:
            yield from Parser(name, _began(file)).lines(file)


def _began(file: BinaryIO) -> str:
    return _iso(os.fstat(file.fileno()).st_mtime)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Parser:
    """Reads the lines of one log. One that is no JSON, of a program of others, has the time of the line before it."""

    def __init__(self, name: str, time: str) -> None:
        self._name, self._time = name, time

    def lines(self, raw: Iterable[bytes]) -> Iterator[Line]:
        return (found for each in raw if (found := self._line(each.decode(errors="replace").rstrip("\n"))) is not None)

    def _line(self, text: str) -> Line | None:
        if not text.strip():
            return None
        values = _parsed(text)
        if values is None:
            return Line(self._time, "info", self._name, text)
        self._time = str(values.pop("time"))
        level, process, event = (str(values.pop(name)) for name in ("level", "process", "event"))
        id = values.pop("request_id", None)
        return Line(self._time, level, process, event, None if id is None else str(id), values)


def _parsed(text: str) -> dict[str, Json] | None:
    if not text.startswith("{"):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if {"time", "level", "process", "event"} <= values.keys() else None


class LogsTail:
    """Reads what is appended to the logs of a folder, from where they end now, also over their rotation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[Path, tuple[int, int]] = {}
        self._parsers: dict[Path, Parser] = {}

    def begin(self) -> list[Path]:
        """Remember how long each log is; return the logs, whose lines up to there `merged` yields."""
        found = files(self._folder)
        for path in found:
            with suppress(OSError):
                state = path.stat()
                self._places[path] = state.st_ino, state.st_size
        return found

    def new(self) -> list[Line]:
        """Return the whole lines since the last call, in the order of their times."""
        found = [line for path in files(self._folder) for line in self._read(path)]
        return sorted(found)

    def _read(self, path: Path) -> Iterator[Line]:
        inode, position = self._places.get(path, (0, 0))
        with suppress(OSError):
            earlier = rotated(path, 1)
            if inode and path.stat().st_ino != inode and earlier.exists() and earlier.stat().st_ino == inode:
                yield from self._appended(path, earlier, position)
        with suppress(OSError):
            state = path.stat()
            start = position if state.st_ino == inode and state.st_size >= position else 0
            yield from self._appended(path, path, start)

    def _appended(self, log: Path, place: Path, position: int) -> Iterator[Line]:
        with place.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(position)
            whole = [raw for ended, raws in groupby(file, lambda raw: raw.endswith(b"\n")) if ended for raw in raws]
            parser = self._parsers.setdefault(log, Parser(name_of(log, self._folder), _began(file)))
        self._places[log] = inode, position + sum(map(len, whole))
        yield from parser.lines(whole)
