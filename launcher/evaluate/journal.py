"""Writes finished samples to disk, so that an interrupted run can be resumed."""

from __future__ import annotations

import errno
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NotRequired, Self, TypedDict, cast

from launcher.core.console import to_stderr
from launcher.core.errors import ResumeError, UserError
from launcher.core.files import read_json, replace, replace_json, storing
from launcher.core.key_table import KeySet, KeyTable
from launcher.core.lease import Lease
from launcher.core.lines import whole_lines
from launcher.core.records import key_of, to_line, to_whole_line
from launcher.core.redaction import has_secrets, redact_bytes
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record
from launcher.evaluate.stored_lines import StoredLines

SCHEMA_VERSION = 1
ITEM_FILES = "item_files"
"""In the fingerprint of a task: the digests of its items' files, where a sample's request and target say all of it."""
LEASE_AGE_S = 0.2
"""A record is appended if the session held the lease so recently. A later session reads what was appended before it
copied the file, and what is appended after that goes to the old file. So a late record does no harm."""
EARLY_STOP = "early_stop"
"""In the header: what a session drew at random, which another one replaces."""
NEUTRAL: tuple[Json, ...] = (None, "", False, [], {})
"""The values with which a setting that an earlier version did not have changes nothing."""
MAX_NAMED = 3
"""So many samples without a task are named."""
MAX_SHOWN_CHARACTERS = 120
"""Characters of a value in a difference."""


class JournalHeader(TypedDict):
    """``journal.json``: what the samples were asked with and, once an evaluation has ended, what it measured.

    ``totals`` are the samples of each task, None where the run ended before they were counted. ``stopped`` says why
    samples were left unasked, None if none were. ``spent`` is what the answers cost where there is a budget, ``lines``
    how many lines of ``samples.jsonl`` are in it. ``early_stop`` says what the last session drew at random.
    """

    schema_version: int
    fingerprint: Json
    totals: NotRequired[dict[str, int | None]]
    stopped: NotRequired[str | None]
    pauses: NotRequired[list[dict[str, Json]]]
    throughput: NotRequired[dict[str, Json]]
    spent: NotRequired[dict[str, int]]
    lines: NotRequired[int]
    item_changes: NotRequired[dict[str, dict[str, int]]]
    early_stop: NotRequired[Json]


class Journal:
    """``samples.jsonl`` and ``journal.json`` of one run folder; a context manager that holds the file open.

    A folder that has a journal is continued. `keys` numbers all samples. `finished` are those that ended in another
    status than failed, `pauses` those of earlier sessions, `spent` what their answers cost. A last line that a crash
    cut is dropped. Raises `ResumeError` for damaged files, and when ``fingerprint``, which holds all that changes
    answers, differs from that of the journal. Raises `TakenOver`, also from `close`, once another session holds the
    ``lease`` of the folder; from `add`, at most `LEASE_AGE_S` seconds later. ``lines`` is what was read of the samples
    before; it is used if they are the same still.
    """

    def __init__(
        self, folder: Path, fingerprint: Json, lease: Lease | None = None, lines: StoredLines | None = None
    ) -> None:
        self._lease = lease
        self._check()
        self._folder = RunFolder(folder)
        self.path = self._folder.samples
        self._header = self._folder.journal
        self._lines = StoredLines()
        self.pauses: list[dict[str, Json]] = []
        self.spent: Counter[str] = Counter()
        self._begin(json.loads(json.dumps(fingerprint)), lines)
        with storing(self.path):
            self._file = self.path.open("ab", buffering=0)
        try:
            self._check()  # a session that takes the lease after this finds the file, and copies it
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, *records: Record) -> None:
        """Append records, unbuffered. Raises `StorageError`, after writing those before the first that does not fit."""
        self._check(LEASE_AGE_S)
        lines: list[tuple[str, bytes]] = []
        try:
            for record in records:
                lines.append((record.key, _redacted(record)))
        finally:  # one that is no JSON takes none before it along
            with storing(self.path):
                self._append(lines)

    @property
    def keys(self) -> KeyTable:
        """The numbers of all samples."""
        return self._lines.keys

    @property
    def finished(self) -> KeySet:
        """The samples that earlier sessions finished."""
        return self._lines.finished

    def _append(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write lines, each whole or not at all; where they do not fit together, one by one."""
        try:
            self._write(b"".join([line for _, line in lines]))
        except OSError:
            if len(lines) < 2:
                raise
            for each in lines:
                self._append([each])
        else:
            for key, line in lines:
                self._lines.note(key, len(line))

    def _write(self, data: bytes) -> None:
        if data and self._file.write(data) != len(data):
            self._file.truncate(self._lines.end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self, order: Iterable[int], facts: Mapping[str, Json], *, is_whole: bool = False) -> None:
        """Write one line per sample, those with the numbers of ``order`` first; then ``facts`` into the header.

        The file is replaced in one step. If ``order`` ``is_whole``, it has all samples: any other line has an id that
        was changed by hand. It is left out, which is said.
        """
        self._file.close()
        self._check()
        order = array("I", order)
        strange = self._strange(order) if is_whole else []
        lines = sum(1 for _ in self._lines.numbers()) - len(strange)
        replace(self.path, self._chosen(order if is_whole else chain(order, self._lines.numbers())))
        if strange:
            names = ", ".join(strange[:MAX_NAMED]) + (", ..." if len(strange) > MAX_NAMED else "")
            number = (
                "1 line left out, whose sample"
                if len(strange) == 1
                else f"{len(strange)} lines left out, whose samples"
            )
            to_stderr(f"{self.path}: {number} no task has: {names}")
        counted = {"lines": lines} if "spent" in facts else {}
        before = {key: value for key, value in _read_header(self._header).items() if key != EARLY_STOP}
        replace_json(self._header, {**before, **facts, **counted}, indent=2)

    def _strange(self, order: Iterable[int]) -> list[str]:
        """Return the keys of the lines whose samples are not in ``order``."""
        known = KeySet(self.keys)
        for number in order:
            known.put(number)
        starts = (self._lines.start(number) for number in self._lines.numbers() if not known.has(number))
        return [key_of(line) for line in self._folder.lines_at(start for start in starts if start is not None)]

    def _chosen(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Yield the last line of each sample that has one."""
        written = KeySet(self.keys)
        with self.path.open("rb") as file:
            for number in numbers:
                start = self._lines.start(number)
                if start is not None and not written.has(number):
                    written.put(number)
                    file.seek(start)
                    yield file.readline()

    def _begin(self, fingerprint: Json, lines: StoredLines | None) -> None:
        if self._header.exists():
            header = _read_header(self._header)
            _compare(header["fingerprint"], fingerprint, self._header.parent)
            self.pauses = header.get("pauses", [])
            self.spent.update(header.get("spent", {}))
            self._reread(header.get("lines", 0), lines)
            self.spent.update(self._lines.spent)
        elif self.path.exists():
            raise ResumeError(f"{self.path} is there without its {RunFolder.journal}; choose another run folder")
        else:
            new = JournalHeader(schema_version=SCHEMA_VERSION, fingerprint=fingerprint)
            replace_json(self._header, new, indent=2)

    def _reread(self, counted: int, known: StoredLines | None) -> None:
        """Read what is there; the answers of the first ``counted`` lines are counted, a killed session added others.

        A copy replaces the file: what the session that held the lease before still writes goes to the old one.
        """
        if not self.path.exists():
            return
        if known is not None and known.version == self._folder.samples_version():
            with suppress(_Other):
                replace(self.path, self._unchanged(known.end))
                self._lines = known
                return
        self._lines = StoredLines(counted)
        replace(self.path, self._noted())

    def _unchanged(self, size: int) -> Iterator[bytes]:
        """Yield the lines. Raises `_Other` unless they are as they were read: ``size`` bytes, without a secret."""
        with self.path.open("rb") as file:
            for _, line in whole_lines(file):
                if redact_bytes(line) != line:
                    raise _Other
                size -= len(line)
                yield line
        if size:
            raise _Other

    def _noted(self) -> Iterator[bytes]:
        """Yield the lines, and note what each of them says."""
        for given, record in self._folder.record_lines():
            line = redact_bytes(given)
            self._lines.read(record, len(line))
            yield line

    def _check(self, max_age_s: float = 0.0) -> None:
        if self._lease is not None:
            self._lease.check(max_age_s)


class _Other(Exception):
    """The lines are not those that were read."""


def _redacted(record: Record) -> bytes:
    """Return the line of a record; one with a secret has whole texts, as a shared beginning could end within it."""
    if not has_secrets():
        return to_line(record)
    whole = to_whole_line(record)
    redacted = redact_bytes(whole)
    return to_line(record) if redacted == whole else redacted


def check(folder: Path, fingerprint: Json) -> None:
    """Raise `ResumeError` if the folder's journal was begun with another ``fingerprint``; nothing is written."""
    begun = header(folder)
    if begun is not None:
        _compare(begun["fingerprint"], json.loads(json.dumps(fingerprint)), folder)


def header(folder: Path) -> JournalHeader | None:
    """Return ``journal.json``; None if no evaluation began. Raises `ResumeError` if it is damaged."""
    path = RunFolder(folder).journal
    return _read_header(path) if path.exists() else None


def difference(old: Json, new: Json, path: str = "") -> list[str]:
    """Return a line ``key: old -> new`` for each value in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in dict.fromkeys([*old, *new]) if name in old or new[name] not in NEUTRAL]
        parts = [(f"{path}.{name}" if path else name, old.get(name), new.get(name)) for name in names]
        return [line for name, a, b in parts for line in difference(a, b, name)]
    return [] if old == new else [f"{path}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def _compare(old: Json, new: Json, folder: Path) -> None:
    lines = difference(_without_item_files(_without_old_digests(old, new)), _without_item_files(new))
    if lines:
        what = "\n".join(f"  {line}" for line in lines)
        raise ResumeError(
            f"{folder} has samples that were asked in another way; choose another folder, or undo this:\n{what}"
        )


def _without_old_digests(old: Json, new: Json) -> Json:
    """Return a fingerprint of before `ITEM_FILES` without the digests that it has in their place."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return old
    if ITEM_FILES in new and ITEM_FILES not in old:
        return {key: value for key, value in old.items() if key not in ("items", "fewshot")}
    return {key: _without_old_digests(value, new.get(key)) for key, value in old.items()}


def _without_item_files(fingerprint: Json) -> Json:
    """Return a fingerprint without the digests of items' files: samples are compared one by one instead."""
    if not isinstance(fingerprint, dict):
        return fingerprint
    return {
        key: _without_item_files(value)
        for key, value in fingerprint.items()
        if key != ITEM_FILES or not isinstance(value, dict)
    }


def _read_header(path: Path) -> JournalHeader:
    try:
        found = read_json(path)
    except UserError as error:
        raise ResumeError(f"{error}; restore it, or choose another run folder") from None
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION or "fingerprint" not in found:
        raise ResumeError(
            f"{path}: not a journal of schema_version {SCHEMA_VERSION}; restore it, or choose another run folder"
        )
    return cast(JournalHeader, found)
