"""Reads the lines of a file that another process may still append to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def whole_lines(file: BinaryIO, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file with their ends, numbered from ``first``.

    A last line without an end is left out: its writer has not finished it, or was killed.
    """
    return ((number, line) for number, line in enumerate(file, first) if line.endswith(b"\n"))


class Tail:
    """Reads what is appended to a file. A file that was replaced, or cut, is read from its start again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._position, self._number = 0, 0, 1

    def lines(self) -> list[tuple[int, bytes]]:
        """Return the whole lines since the last call, with their numbers; none without a file. Raises `OSError`."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._position:
                self._inode, self._position, self._number = found.st_ino, 0, 1
            file.seek(self._position)
            lines = list(whole_lines(file, self._number))
        self._position += sum(len(line) for _, line in lines)
        self._number += len(lines)
        return lines
