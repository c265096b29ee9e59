"""Reads a task's items, one at a time, from JSON lines or from a saved data set."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, cast

from launcher.core.errors import TaskError
from launcher.core.types import Json, resolve


@dataclass(frozen=True)
class Item:
    """One row: its fields, and ``where`` it stands (file and line, counted from 1) for messages."""

    fields: Mapping[str, Json]
    where: str
    number: int

    def get(self, path: str) -> Json:
        """Return a field by its dotted path, such as ``choices.text``. Raises `TaskError` naming the place."""
        value: Json = self.fields
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise TaskError(f"{self.where}: field '{path}' is missing; the item has {self.names()}")
            value = value[part]
        return value

    def names(self) -> str:
        return ", ".join(self.fields) or "no fields"


def read(path: str, limit: int | None = None) -> Iterator[Item]:
    """Yield the items of ``path`` in file order, at most ``limit``.

    ``path`` (see `launcher.core.types.resolve`) is a JSON lines file, also gzipped, or a folder that
    ``datasets.save_to_disk`` wrote. Raises `TaskError` for what is not there, is malformed, or holds no item.
    """
    found = _located(path)
    items = islice(_saved(found) if found.is_dir() else _lines(found), limit)
    first = next(items, None)
    if first is None:
        raise TaskError(f"{path}: no items" + (" (limit is 0)" if limit == 0 else f" in {found}"))
    yield first
    yield from items


def identified(items: Iterator[Item], field: str) -> Iterator[tuple[str, Item]]:
    """Yield each item with its id: ``field``, or for an empty ``field`` the item's ``id`` or else its number.

    Raises `TaskError` for an id that two items share, with both places.
    """
    seen: dict[str, str] = {}
    for item in items:
        name = str(item.get(field) if field else item.fields.get("id", item.number))
        if name in seen:
            raise TaskError(f"{item.where}: id '{name}' is already that of {seen[name]}")
        seen[name] = item.where
        yield name, item


def digest(path: str) -> str:
    """Return the SHA-256 of the items' bytes. Raises `TaskError` for a malformed line, before anything is asked."""
    found = _located(path)
    made = hashlib.sha256()
    for file in sorted(found.glob("*.arrow")) if found.is_dir() else [found]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                made.update(block)
    for _ in read(path, limit=1) if found.is_dir() else read(path):
        continue
    return made.hexdigest()


def count(path: str) -> int:
    """Return the number of items. Raises `TaskError` as `read` does."""
    found = _located(path)
    if found.is_dir():
        return len(_load(found))
    with _open(found) as file:
        return sum(1 for line in file if line.strip())


def _located(path: str) -> Path:
    try:
        found = resolve(path)
    except FileNotFoundError as error:
        raise TaskError(str(error)) from None
    if not found.exists():
        raise TaskError(f"{path}: there is no file or folder {found}")
    return found


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[Item]:
    """Yield the items of a JSON lines file; blank lines are skipped but counted."""
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Item(_object(line, f"{path}:{number}"), f"{path}:{number}", number)
    except (OSError, EOFError) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error


def _object(line: bytes, where: str) -> dict[str, Json]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise TaskError(f"{where}: a JSON object is needed, this is a {type(value).__name__}")
    return value


def _saved(folder: Path) -> Iterator[Item]:
    for number, row in enumerate(_load(folder), start=1):
        yield Item(row, f"{folder} row {number}", number)


def _load(folder: Path) -> Json:
    try:
        import datasets
    except ImportError:
        raise TaskError(f"{folder}: reading a saved data set needs the package 'datasets'") from None
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise TaskError(f"{folder}: not a data set that datasets.save_to_disk wrote: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        raise TaskError(f"{folder}: holds several splits; name one of {', '.join(loaded)} in the path")
    return loaded
