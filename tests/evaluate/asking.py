"""Asks samples as a run does, and returns the results of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.adapters.base import Adapter
from launcher.core.types import Endpoint, Json
from launcher.evaluate import outcome
from launcher.evaluate.evaluator import ask_all
from launcher.evaluate.progress import Progress
from launcher.settings.evaluate import Evaluate
from launcher.tasks.base import Task


async def evaluate(
    endpoint: Endpoint,
    tasks: Mapping[str, Task],
    adapters: Sequence[Adapter],
    settings: Evaluate,
    folder: Path,
    fingerprint: Json,
    progress: Progress,
    *more: Any,
    **options: Any,
) -> outcome.Outcome:
    """Ask the samples as `ask_all` does with the same arguments, and return the results of all."""
    await ask_all(endpoint, tasks, adapters, settings, folder, fingerprint, progress, *more, **options)
    return outcome.read(folder, tasks)
