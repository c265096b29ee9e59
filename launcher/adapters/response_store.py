"""Answers by the digest of their request and of what answers it, which several processes may share."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from launcher.adapters import answer_file
from launcher.adapters.answer_writer import AnswerWriter, Change
from launcher.core.errors import UserError
from launcher.core.redaction import redact
from launcher.core.types import Json, Request, Response

log = logging.getLogger(__name__)

CHECKED = 2
"""The generation of the checks that an answer has passed; one of an earlier generation is asked for again."""
SLOW_S = 0.02
"""After a read that took longer than this, reads are made in a thread: the disk is a remote one, or busy."""
TOUCHED_S = 3600
"""An answer that is used is marked as used once in so many seconds."""
SELECT = "SELECT used, sum, answer FROM answers WHERE digest = ?"


def digest_of(request: Request, downstream: Json) -> bytes:
    """Return the SHA-256 of a request and of what answers it.

    Of a secret only its variable's name counts, so that a key may be changed.
    """
    found = {"path": request.path, "body": request.body, "headers": request.headers, "for": _scope(request)}
    whole = json.dumps([CHECKED, found, downstream], sort_keys=True, default=str)
    return hashlib.sha256(redact(whole).encode()).digest()


def _scope(request: Request) -> str:
    """Return which requests may share an answer: those of one repeat; a drawn answer belongs to one request only."""
    sample = request.sample or ""
    if request.body.get("temperature") == 0:
        return sample.rpartition("/")[2]
    return f"{sample}#{request.index}" if request.index else sample


class ResponseStore:
    """Reads and writes answers in a file of a folder. Raises `UserError` for a folder that cannot be used.

    What is to be written is held in memory until it is in the file. A damaged file is put aside, and a new one begins.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._pending: dict[bytes, Change] = {}
        self._lock = Lock()
        self._open: list[sqlite3.Connection] = []
        self._slow = self._broken = False
        try:
            self._writer = AnswerWriter(folder, max_bytes, self._written)
            self._connect()
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            remedy = "give a folder that can be written, or leave caching out"
            raise UserError(f"adapters.caching.folder={folder}: cannot be used: {reason}; {remedy}") from None

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()
        for file in self._open:
            file.close()

    @property
    def path(self) -> Path:
        """The file that is used now."""
        return self._writer.path

    def used_bytes(self) -> int:
        """Return how much the answers take."""
        return answer_file.used_bytes(self._patient)

    async def read(self, digest: bytes) -> Response | None:
        """Return the answer with ``cached`` set, or None if there is none that can be read."""
        if change := self._pending.get(digest):
            return None if change.text is None else _parsed(change.text)
        try:
            if self._path != self._writer.path:
                self._connect()
            row = await self._row(digest)
        except sqlite3.Error as error:
            self._failed(error)
            return None
        return None if row is None else self._checked(digest, *row)

    def write(self, digest: bytes, response: Response, events: Sequence[Json] | None) -> None:
        """Keep a checked answer, or a whole stream; it is in the file soon."""
        kept = {"body": response.body, "events": events, "notes": response.notes or ()}
        self._put(Change(digest, redact(json.dumps(kept)).encode()))

    def forget(self, digest: bytes) -> None:
        """Remove an answer that has turned out to be faulty."""
        self._put(Change(digest))

    def _put(self, change: Change) -> None:
        if not self._writer.broken:
            with self._lock:
                self._pending[change.digest] = change
            self._writer.put(change)

    def _written(self, changes: Sequence[Change]) -> None:
        """Let go of what is in the file, unless it has changed again; the writer's thread calls this."""
        with self._lock:
            for change in changes:
                if self._pending.get(change.digest) is change:
                    del self._pending[change.digest]

    async def _row(self, digest: bytes) -> tuple[int, int, bytes] | None:
        """Select an answer here, where that takes no time, or else in a thread."""
        if not self._slow:
            start = time.perf_counter()
            try:
                row: tuple[int, int, bytes] | None = self._quick.execute(SELECT, (digest,)).fetchone()
                self._slow = time.perf_counter() - start > SLOW_S
                return row
            except sqlite3.OperationalError as error:
                if answer_file.code_of(error) != sqlite3.SQLITE_BUSY:
                    raise
        return await asyncio.to_thread(_selected, self._patient, digest)

    def _checked(self, digest: bytes, used: int, total: int, text: bytes) -> Response | None:
        if zlib.crc32(text) != total:
            log.warning("%s: the answer %s is damaged; asked again", self._path, digest.hex())
            self.forget(digest)
            return None
        if time.time() - used > TOUCHED_S:
            self._writer.put(Change(digest, used=True))
        return _parsed(text)

    def _connect(self) -> None:
        self._path = self._writer.path
        self._quick = answer_file.connect(self._path, 0.0)
        self._patient = answer_file.connect(self._path)
        self._open += self._quick, self._patient

    def _failed(self, error: sqlite3.Error) -> None:
        """Put a damaged file aside, so that the writer begins a new one; log any other error once."""
        if answer_file.is_damage(error):
            with suppress(OSError):
                answer_file.mark(self._path, error)
                return
        if not self._broken:
            self._broken = True
            log.error("%s: %s; answers that cannot be read are asked again", self._path, error)


def _selected(file: sqlite3.Connection, digest: bytes) -> tuple[int, int, bytes] | None:
    row: tuple[int, int, bytes] | None = file.execute(SELECT, (digest,)).fetchone()
    return row


def _parsed(text: bytes) -> Response:
    kept = json.loads(text)
    replayed = None if kept["events"] is None else _replayed(kept["events"])
    return Response(200, kept["body"], events=replayed, cached=True, notes=tuple(kept["notes"]))


async def _replayed(events: Sequence[Json]) -> AsyncIterator[Json]:
    for event in events:
        yield event
