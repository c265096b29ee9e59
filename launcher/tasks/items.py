"""Reads a task's items, one at a time, from files of several formats or from a data set of the package datasets."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from launcher.core.errors import TaskError
from launcher.core.key_table import KeyTable
from launcher.core.types import Json
from launcher.tasks import item_files, item_folders
from launcher.tasks.item_files import Row
from launcher.tasks.locations import located

HUB = "hub:"
"""Stands before the name of a data set on a hub, of which the copy in the cache is read."""

PLACE = re.compile(r"\d+$")
"""The line or the number at the end of where an item stands."""


@dataclass(frozen=True)
class Item:
    """One row: its fields, and ``where`` it stands (file and line, counted from 1) for messages."""

    fields: Mapping[str, Json]
    where: str
    number: int

    def get(self, path: str) -> Json:
        """Return a field by its dotted path, such as ``choices.text``. Raises `TaskError` naming the place."""
        value: Json = self.fields
        if path in self.fields:
            return self.fields[path]
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise TaskError(f"{self.where}: field '{path}' is missing; the item has {self.names()}")
            value = value[part]
        return value

    def names(self) -> str:
        return ", ".join(self.fields) or "no fields"


def read(path: str, limit: int | None = None, *, config: str = "", split: str = "") -> Iterator[Item]:
    """Yield the items of ``path`` in their order, at most ``limit``.

    ``path`` is found as `launcher.tasks.locations.located` says. Its ending says what it is: a JSON array (.json),
    .csv, .tsv, .parquet, or else JSON lines. All but Parquet may be gzipped (.gz). A folder is one that
    ``datasets.save_to_disk`` wrote. ``hub:<name>`` is the cached copy of a data set on a hub, with its ``config``.
    ``split`` is one of a folder or of a hub's data set.

    Raises `TaskError` for what is not there, is malformed, or holds no item.
    """
    rows = islice(_rows(path, config, split), limit)
    first = next(rows, None)
    if first is None:
        raise TaskError(f"{path}: no items" + (" (limit is 0)" if limit == 0 else ""))
    yield Item(*first)
    for row in rows:
        yield Item(*row)


def identified(items: Iterator[Item], field: str, *, are_unique: bool = False) -> Iterator[tuple[str, Item]]:
    """Yield each item with its id: ``field``, or for an empty ``field`` the item's ``id`` or else its number.

    Raises `TaskError` for an id that two items share, with both places, unless it is known that none do.
    """
    seen, places = KeyTable(), array("Q")
    for item in items:
        name = str(item.get(field) if field else item.fields.get("id", item.number))
        if are_unique:
            yield name, item
            continue
        number = seen.add(name)
        if number < len(places):
            earlier = PLACE.sub(str(places[number]), item.where)
            raise TaskError(f"{item.where}: id '{name}' is already that of {earlier}")
        place = PLACE.search(item.where)
        places.append(int(place[0]) if place else 0)
        yield name, item


def digest(path: str, *, config: str = "", split: str = "") -> str:
    """Return the SHA-256 of the items' file; of several files, that of their digests. Raises `TaskError`."""
    made = [_sha256(file, *_version(file)) for file in _files(path, config, split)]
    return (made[0] if len(made) == 1 else hashlib.sha256(b"".join(made)).digest()).hex()


def count(path: str, *, config: str = "", split: str = "") -> int:
    """Return the number of items. Raises `TaskError` as `read` does."""
    found = _source(path, config, split)
    if not isinstance(found, Path):
        return len(found)
    return _counted(found, path, *_version(found))


def version(path: str, *, config: str = "", split: str = "") -> Json:
    """Return what changes with the items' files: their names, times and sizes. Raises `TaskError`."""
    return [[str(file), *_version(file)] for file in _files(path, config, split)]


def check_source(path: str) -> None:
    """Raise `TaskError` where there is nothing at ``path``, or where the package that reads it is not installed."""
    is_folder = path.startswith(HUB) or (bool(path) and located(path).is_dir())
    needed = "datasets" if is_folder else "pyarrow" if path.endswith(".parquet") else ""
    if needed and find_spec(needed) is None:
        raise TaskError(f"{path}: reading it needs the package '{needed}': pip install {needed}")


def _rows(path: str, config: str, split: str) -> Iterator[Row]:
    found = _source(path, config, split)
    return item_files.rows(found, path) if isinstance(found, Path) else item_folders.rows(found, path)


def _files(path: str, config: str, split: str) -> list[Path]:
    found = _source(path, config, split)
    return [found] if isinstance(found, Path) else item_folders.files(found)


def _source(path: str, config: str, split: str) -> Json:
    """Return the path of a file, or an opened data set. Raises `TaskError` for settings that do not fit it."""
    if path.startswith(HUB):
        return item_folders.cached(path.removeprefix(HUB), config, split)
    if not path:
        raise TaskError(f"path is empty; expected a file of items, a folder, package:<name>/<file> or {HUB}<name>")
    found = located(path)
    if config:
        raise TaskError(f"{path}: config={config} is for a data set of a hub; expected path={HUB}<name>")
    if found.is_dir():
        return item_folders.saved(found, split)
    if split:
        raise TaskError(f"{path}: split={split} is for a folder or a data set of a hub; this is a file")
    return found


def _version(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _sha256(file: Path, changed_ns: int, size: int) -> bytes:
    """Return the digest of a file, which is read once for each of its versions."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise TaskError(f"{file}: cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=64)
def _counted(file: Path, path: str, changed_ns: int, size: int) -> int:
    return item_files.count(file, path)
