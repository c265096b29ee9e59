"""Counts the failures that fail no request: those of observers, and of what adapters do after a run."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from launcher.adapters.kept_counts import kept
from launcher.core.console import one_line
from launcher.core.errors import UserError
from launcher.core.redaction import redact
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.settings.component import name_of

log = logging.getLogger(__name__)

QUOTED = 500
"""Characters of an error that are kept."""


@dataclass
class Failures:
    """How often each adapter failed, by its name, and its first error; the first one is logged in one line."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, adapter: object, error: BaseException, where: str = "") -> None:
        name, text = shown_name(adapter), redact(f"{type(error).__name__}: {error}")
        reason = one_line(f"{where}: {text}" if where else text, QUOTED)
        if name not in self.counts:
            log.error("adapters.%s: %s; this changes no result, later failures are only counted", name, reason)
        self.first.setdefault(name, reason)
        self.counts[name] = self.counts.get(name, 0) + 1

    def entries(self) -> dict[str, dict[str, Json]]:
        return {name: {"count": count, "first": self.first[name]} for name, count in self.counts.items()}


def read(folder: Path) -> dict[str, Json]:
    """Return ``{count, first}`` by adapter from a run folder. Raises `UserError` for a damaged file."""
    file = RunFolder(folder).adapter_failures
    try:
        found = json.loads(file.read_bytes())
        return {name: {"count": int(one["count"]), "first": str(one["first"])} for name, one in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not the failures of adapters ({error}); remove it to count from zero") from None


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[Failures]:
    """Yield what counts failures, and keep them in a file, added to those of earlier sessions of the run."""
    before, failures = read(folder), Failures()
    file = RunFolder(folder).adapter_failures
    async with kept(file, lambda: _sum(before, failures) if failures.counts else None):
        yield failures


def _sum(before: Mapping[str, Json], failures: Failures) -> dict[str, Json]:
    found = dict(before)
    for name, entry in failures.entries().items():
        earlier = before.get(name, entry | {"count": 0})
        found[name] = {**earlier, "count": earlier["count"] + entry["count"]}
    return found


def shown_name(adapter: object) -> str:
    """Return what an adapter is called in messages: its option, or its class where it has none."""
    try:
        return name_of(adapter)
    except LookupError:
        return type(adapter).__name__
