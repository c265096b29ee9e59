"""What is kept of the lines of ``samples.jsonl``, so that none is read twice when a run is resumed."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import repeat

from launcher.core.key_table import KeySet, KeyTable
from launcher.core.types import Record, Status


class StoredLines:
    """Where the last line of each sample is.

    `keys` numbers the samples, and `finished` are those that ended in another status than failed. `end` is the size of
    all lines. `spent` is what the answers cost, without the first ``counted`` lines. `version` is that of the file
    which was read.
    """

    def __init__(self, counted: int = 0, version: tuple[int, ...] | None = None) -> None:
        self.keys = KeyTable()
        self.finished = KeySet(self.keys)
        self.end = 0
        self.spent: Counter[str] = Counter()
        self.version = version
        self._uncounted = counted
        self._starts = array("q")

    def note(self, key: str, length: int) -> int:
        """Note the next line, that of the sample with this key; return the sample's number."""
        number = self.keys.add(key)
        if number >= len(self._starts):
            self._starts.extend(repeat(-1, number + 1 - len(self._starts)))
        self._starts[number] = self.end
        self.end += length
        return number

    def read(self, record: Record, length: int) -> None:
        """Note the next line of a file that is there."""
        number = self.note(record.key, length)
        self.finished.put(number, inside=record.status is not Status.failed)
        if self._uncounted:
            self._uncounted -= 1
        elif record.spent:
            self.spent.update(record.spent)

    def start(self, number: int) -> int | None:
        """Return the number of bytes before the last line of a sample; None if it has no line."""
        found = self._starts[number] if number < len(self._starts) else -1
        return found if found >= 0 else None

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the samples that have a line."""
        return (number for number, start in enumerate(self._starts) if start >= 0)
