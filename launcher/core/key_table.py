"""Numbers the keys of samples in 20 bytes each, so that a million of them take little memory."""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import blake2b
from threading import Lock

SLOTS = 1024
"""Slots of an empty table; their number is doubled as soon as two thirds are taken."""
LOW_BYTES, HIGH_BYTES = 8, 4
RECENT = 1024
"""The digests of so many texts are kept: a sample's key is looked up as it is made, asked and written."""


class KeyTable:
    """The numbers of different texts, from 0 in the order in which they were added.

    It keeps digests of 96 bits, not the texts. Of a million texts, two have the same digest with a probability below
    1e-16; they would count as one. Threads may use it at the same time.
    """

    def __init__(self) -> None:
        self._low, self._high = array("Q"), array("I")
        self._slots = array("I", bytes(4 * SLOTS))
        """The number of the text whose digest belongs here, plus 1; 0 in a free slot."""
        self._using = Lock()

    def __len__(self) -> int:
        return len(self._low)

    def __contains__(self, key: str) -> bool:
        return self.find(key) is not None

    def add(self, key: str) -> int:
        """Return the number of a text, a new one if it has none."""
        low, high = _digest(key)
        with self._using:
            slot = self._slot(low, high)
            if not self._slots[slot]:
                self._low.append(low)
                self._high.append(high)
                self._slots[slot] = len(self._low)
                if len(self._low) * 3 > len(self._slots) * 2:
                    self._grow()
                return len(self._low) - 1
            return self._slots[slot] - 1

    def find(self, key: str) -> int | None:
        """Return the number of a text, None if it was not added."""
        digest = _digest(key)
        with self._using:
            found = self._slots[self._slot(*digest)]
        return found - 1 if found else None

    def _slot(self, low: int, high: int) -> int:
        """Return the slot of a digest, or the free one where it belongs."""
        slots, last = self._slots, len(self._slots) - 1
        at = low & last
        while (number := slots[at]) and not (self._low[number - 1] == low and self._high[number - 1] == high):
            at = (at + 1) & last
        return at

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        slots = array("I", bytes(4 * size))
        for number, low in enumerate(self._low, 1):
            at = low & (size - 1)
            while slots[at]:
                at = (at + 1) & (size - 1)
            slots[at] = number
        self._slots = slots


class KeySet:
    """Some of the keys of a table, one byte for each of them up to the last that is in the set."""

    def __init__(self, keys: KeyTable) -> None:
        self._keys, self._flags = keys, bytearray()

    def __contains__(self, key: object) -> bool:
        number = self._keys.find(str(key)) if self._flags else None
        return number is not None and self.has(number)

    def __len__(self) -> int:
        return self._flags.count(1)

    def has(self, number: int) -> bool:
        return number < len(self._flags) and self._flags[number] == 1

    def put(self, number: int, *, inside: bool = True) -> None:
        """Add the key with this number, or take it out."""
        if number >= len(self._flags):
            self._flags.extend(bytes(number + 1 - len(self._flags)))
        self._flags[number] = inside


@lru_cache(RECENT)
def _digest(key: str) -> tuple[int, int]:
    made = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=LOW_BYTES + HIGH_BYTES).digest()
    return int.from_bytes(made[:LOW_BYTES], "little"), int.from_bytes(made[LOW_BYTES:], "little")
