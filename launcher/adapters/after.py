"""Calls what adapters do after a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.adapters.base import Adapter, Finished
from launcher.adapters.failures import recording

TIMEOUT_S = 300.0
"""Seconds that one adapter may take."""


@dataclass(frozen=True)
class Hooked:
    """The adapters of a run folder that do something after the run."""

    adapters: Sequence[Adapter]
    folder: Path


def hooked(adapters: Iterable[Adapter], folder: Path) -> Hooked:
    """Return those of the adapters that do something after the run."""
    return Hooked([adapter for adapter in adapters if type(adapter).after is not Adapter.after], folder)


async def call(hooks: Hooked, finished: Finished) -> bool:
    """Call `Adapter.after` of each once, in order; count what fails in the folder, and return whether anything did."""
    async with recording(hooks.folder) as failures:
        for adapter in hooks.adapters:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await adapter.after(finished)
            except (Exception, SystemExit) as error:
                failures.add(adapter, error, "after the run")
        return bool(failures.counts)
