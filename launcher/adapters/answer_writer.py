"""Writes the answers of a cache in a thread of its own, those of a moment together, and removes the oldest."""

from __future__ import annotations

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from launcher.adapters import answer_file

log = logging.getLogger(__name__)

LINGER_S = 0.05
"""Seconds for which changes are gathered, so that they are written together: a crash loses no more than these."""
MOST_TOGETHER = 1000
KEPT = 0.9
"""The share of the limit that is left when the oldest answers are removed."""
EVICTED = 100
"""How many answers are removed at a time."""
ATTEMPTS = 3
"""How often changes are written, where the file turns out to be damaged or removed."""


@dataclass(frozen=True)
class Change:
    """A change of the answer of a digest: ``text`` replaces it, None removes it, and ``used`` keeps it for longer."""

    digest: bytes
    text: bytes | None = None
    used: bool = False


class AnswerWriter:
    """Writes changes in the order in which they come; ``done`` is told which are in the file.

    After an error that does not pass, which is logged, ``broken`` is true, and no more are written.
    """

    def __init__(self, folder: Path, max_bytes: int, done: Callable[[Sequence[Change]], None]) -> None:
        self._folder, self._max_bytes, self._done = folder, max_bytes, done
        self._queue: SimpleQueue[Change | None] = SimpleQueue()
        self.path = answer_file.opened(folder)
        self.broken = False
        self._thread = Thread(target=self._run, name="cache", daemon=True)
        self._thread.start()

    def put(self, change: Change) -> None:
        """Have a change written soon."""
        if not self.broken:
            self._queue.put(change)

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            batch = self._batch()
            last = batch[-1] is None
            changes = [change for change in batch if change is not None]
            if changes and not self.broken:
                self._write(changes)
            self._done(changes)

    def _batch(self) -> list[Change | None]:
        """Wait for a change; return it with those that follow soon. The end of all is None."""
        batch, until = [self._queue.get()], time.monotonic() + LINGER_S
        while batch[-1] is not None and len(batch) < MOST_TOGETHER:
            try:
                batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                break
        return batch

    def _write(self, changes: Sequence[Change]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if answer_file.is_marked(self.path):
                    self.path = answer_file.opened(self._folder)
                with answer_file.connected(self.path) as file:
                    _apply(file, changes)
                    _evict(file, self._max_bytes)
                return
            except (sqlite3.Error, OSError) as error:
                if attempt == ATTEMPTS or not self._reopened(error):
                    self.broken = True
                    log.error("%s: %s; no more answers are kept", self.path, error)
                    return

    def _reopened(self, error: sqlite3.Error | OSError) -> bool:
        """Open the file that follows a damaged one, or a new one where it was removed; return whether there is one."""
        try:
            if isinstance(error, sqlite3.Error) and answer_file.is_damage(error):
                answer_file.mark(self.path, error)
            elif self.path.exists():
                return False
            self.path = answer_file.opened(self._folder)
        except (sqlite3.Error, OSError):
            return False
        return True


def _apply(file: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make all changes, or none."""
    now = int(time.time())
    with _transaction(file):
        for change in changes:
            if change.used:
                file.execute("UPDATE answers SET used = ? WHERE digest = ?", (now, change.digest))
            elif change.text is None:
                file.execute("DELETE FROM answers WHERE digest = ?", (change.digest,))
            else:
                row = (change.digest, now, zlib.crc32(change.text), change.text)
                file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _evict(file: sqlite3.Connection, max_bytes: int) -> None:
    """Remove the answers that were not used for the longest time, once all take more than ``max_bytes``."""
    if answer_file.used_bytes(file) <= max_bytes:
        return
    while answer_file.used_bytes(file) > max_bytes * KEPT:
        with _transaction(file):
            oldest = "SELECT rowid FROM answers ORDER BY used, rowid LIMIT ?"
            if not file.execute(f"DELETE FROM answers WHERE rowid IN ({oldest})", (EVICTED,)).rowcount:
                break
    file.executescript("PRAGMA incremental_vacuum")  # steps through all pages, which `execute` does not


@contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[None]:
    file.execute("BEGIN IMMEDIATE")
    with file:  # commits, or rolls back
        yield
