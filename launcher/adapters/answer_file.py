"""The file of a cache's answers: its place, its tables, and what becomes of a damaged one.

The file is in SQLite's rollback mode. Its write-ahead log would be a little faster, and is not safe where several
hosts share the folder.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Seconds for which a process waits for another one that writes."""
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
COLUMNS = ["digest", "used", "sum", "answer"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (digest BLOB PRIMARY KEY, used INTEGER, sum INTEGER, answer BLOB);
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
"""


class OtherLayout(sqlite3.DatabaseError):
    """A file whose table has other columns: that of another version, or of another program."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


def opened(folder: Path) -> Path:
    """Return the file that is in use, with its tables. Raises `sqlite3.Error` and `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = _current(folder)
        try:
            with connected(path) as file:
                _make_tables(file)
            return path
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            mark(path, error)


def _make_tables(file: sqlite3.Connection) -> None:
    found = [row[1] for row in file.execute("PRAGMA table_info(answers)")]
    if found and found != COLUMNS:
        raise OtherLayout(f"its answers have the columns {', '.join(found)}, expected {', '.join(COLUMNS)}")
    if not file.execute("PRAGMA page_count").fetchone()[0]:
        file.execute("PRAGMA auto_vacuum = INCREMENTAL")  # possible in an empty file only
    file.executescript(SCHEMA)


def _current(folder: Path) -> Path:
    """Return the first file that is not marked as damaged."""
    number = 1
    while _mark_of(folder / f"answers.{number}.sqlite").exists():
        number += 1
    return folder / f"answers.{number}.sqlite"


def mark(path: Path, error: sqlite3.Error) -> None:
    """Let every process leave a damaged file alone, and begin another one. Raises `OSError`.

    It keeps its name: a process that still has it open would write its journal beside a file of the old name.
    """
    if not is_marked(path):
        _mark_of(path).write_text(f"{error}\n")
        log.warning("%s: %s; it is put aside, and its answers are asked again", path, error)


def is_marked(path: Path) -> bool:
    """Tell whether a file is known to be damaged."""
    return _mark_of(path).exists()


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether an error says that the file is no database, or a damaged one."""
    return code_of(error) in DAMAGED


def code_of(error: sqlite3.Error) -> int:
    """Return the primary code of an error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def connect(path: Path, timeout_s: float = TIMEOUT_S) -> sqlite3.Connection:
    """Return a connection that commits every statement of its own, and may change threads."""
    file = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA synchronous = NORMAL")
    return file


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection, and close it."""
    with closing(connect(path)) as file:
        yield file


def used_bytes(file: sqlite3.Connection) -> int:
    """Return the bytes of the pages that hold something."""
    pages, free, size = (
        file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _mark_of(path: Path) -> Path:
    return path.with_suffix(".damaged")
