"""Reads whole texts: one file, each file of a folder, or a field of each item of a file."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.core.errors import TaskError
from launcher.core.types import Json
from launcher.tasks import items, template
from launcher.tasks.items import HUB
from launcher.tasks.locations import located

ITEM_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
"""Files of items, each also gzipped; any other file is one text."""
DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
"""What a folder of ``datasets.save_to_disk`` holds."""
PATTERN = "**/*.txt"


@dataclass(frozen=True)
class Text:
    """A text, its id, and ``where`` it stands, for messages."""

    id: str
    text: str
    where: str


@dataclass(frozen=True)
class TextSource:
    """Where texts come from: ``path`` and the settings of the same names of `launcher.tasks.perplexity.Perplexity`."""

    path: str
    text: str
    files: str
    id: str
    config: str
    split: str

    def check(self) -> None:
        """Raise `TaskError` where there is nothing at ``path``, or no package that reads it; no text is read."""
        if self._has_items:
            items.check_source(self.path)
        else:
            self._named_files()

    def texts(self) -> Iterator[Text]:
        """Yield the texts in their order. Raises `TaskError` for what is not there, is no text, or is empty."""
        for found in self._items() if self._has_items else self._whole_files():
            if not found.text:
                raise TaskError(f"{found.where}: the text is empty; it has nothing to score")
            if not _is_encodable(found.text):
                raise TaskError(f"{found.where}: the text has half of a surrogate pair, which no tokenizer reads")
            yield found

    def digest(self) -> str:
        """Return the SHA-256 of all that is read. Raises `TaskError`."""
        if self._has_items:
            return items.digest(self.path, config=self.config, split=self.split)
        made = hashlib.sha256()
        for name, file in self._named_files():
            made.update(f"{name}\0{items.digest(str(file))}\0".encode())
        return made.hexdigest()

    @property
    def _has_items(self) -> bool:
        """Whether there are items with fields. Raises `TaskError` for an empty path."""
        if not self.path:
            raise TaskError("path is empty; expected a text file, a folder of texts, or a file of items with a text")
        if self.path.startswith(HUB):
            return True
        found = located(self.path)
        if found.is_dir():
            return any((found / name).exists() for name in DATASET_FILES)
        return found.name.lower().removesuffix(".gz").endswith(ITEM_SUFFIXES)

    def _items(self) -> Iterator[Text]:
        rows = items.read(self.path, config=self.config, split=self.split)
        for key, item in items.identified(rows, self.id):
            yield Text(key, _text(template.value(self.text, item), item.where, self.text), item.where)

    def _whole_files(self) -> Iterator[Text]:
        for key, value in (("config", self.config), ("split", self.split), ("id", self.id)):
            if value:
                raise TaskError(
                    f"{self.path}: {key}={value} is for files of items, which end in .jsonl, .csv or .parquet"
                )
        for name, file in self._named_files():
            yield Text(name, _read(file), str(file))

    def _named_files(self) -> Sequence[tuple[str, Path]]:
        """Return the files of a folder by their paths in it, or the one file by its name."""
        found = located(self.path)
        if not found.is_dir():
            return [(found.name, found)]
        chosen = sorted(file for file in _matching(found, self.files) if file.is_file())
        if not chosen:
            raise TaskError(f"{self.path}: no file in this folder matches files={self.files}")
        return [(file.relative_to(found).as_posix(), file) for file in chosen]


def _matching(folder: Path, pattern: str) -> Sequence[Path]:
    try:
        return list(folder.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise TaskError(
            f"files={pattern!r} is no pattern of files ({error}); expected, for instance, {PATTERN}"
        ) from None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(found: Json, where: str, field: str) -> str:
    if not isinstance(found, str):
        raise TaskError(f"{where}: {field} is {type(found).__name__}, expected a text")
    return found


def _read(file: Path) -> str:
    """Return a file's text as it is, line ends included; only a byte order mark is left out."""
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if file.name.lower().endswith(".gz") else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{file}: byte {error.start} is not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{file}: cannot be read: {error}") from None
