"""Counts why samples were lost."""

from __future__ import annotations

import re
from collections import Counter

REASONS = 3
"""How many reasons for a lost sample are kept per status; every sample's own is in ``samples.jsonl``."""


class Reasons:
    """Counts reasons; those that differ in numbers only are one, named by the first of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, times: int = 1) -> None:
        """Count a reason that was given so often."""
        kind = re.sub(r"\d+", "#", reason)
        self._counts[kind] += times
        self._first.setdefault(kind, reason)

    def common(self, most: int | None = REASONS) -> dict[str, int]:
        """Return the most common ones, the first of equally many first; all of them where ``most`` is None."""
        ordered = sorted(self._counts.items(), key=lambda found: found[1], reverse=True)
        return {self._first[kind]: count for kind, count in ordered[:most]}
