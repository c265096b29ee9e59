"""The results in a run folder: of the samples that the launcher asked, and of harnesses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.core.run_folder import RunFolder
from launcher.harness import stored
from launcher.tasks.base import Task
from launcher.tasks.harness.base import Harness

if TYPE_CHECKING:
    from launcher.evaluate.outcome import Outcome


def asked(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the tasks whose samples the launcher asks itself."""
    return {name: task for name, task in tasks.items() if not isinstance(task, Harness)}


def harnesses(tasks: Mapping[str, Task]) -> dict[str, Harness]:
    """Return the tasks that a harness asks."""
    return {name: task for name, task in tasks.items() if isinstance(task, Harness)}


def proxies(folder: Path, tasks: Mapping[str, Task]) -> dict[str, Path]:
    """Return where the adapters of each harness write, by its name."""
    return {name: RunFolder(stored.folder(folder, name).path).proxy_adapters for name in harnesses(tasks)}


def read(folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    """Return the results of all tasks, in their order. Raises `ResumeError` for damaged files."""
    from launcher.evaluate import outcome

    return _with_harnesses(outcome.read(folder, asked(tasks)), folder, tasks)


def read_to_continue(folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    """Return what `read` does, with the lines of the samples."""
    from launcher.evaluate import outcome

    return _with_harnesses(outcome.read_to_continue(folder, asked(tasks)), folder, tasks)


def _with_harnesses(found: Outcome, folder: Path, tasks: Mapping[str, Task]) -> Outcome:
    began = stored.results(folder, tasks) if found.began else {}
    every = {**found.tasks, **began}
    order = [*(name for name in tasks if name in every), *(name for name in every if name not in tasks)]
    return replace(found, tasks={name: every[name] for name in order})
