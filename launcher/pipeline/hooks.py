"""The step after the report: what the adapters of a run do once it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.adapters import after
from launcher.adapters.after import Hooked
from launcher.adapters.base import Finished
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.event_loop import run_async
from launcher.core.run_folder import RunFolder
from launcher.core.types import Report
from launcher.pipeline.config import Mode, Run


def hooks_of(run: Run, folder: Path) -> tuple[Hooked, ...]:
    """Return what is to be called after an evaluation or a proxy: its own adapters, then those of its judge."""
    if run.mode is not Mode.run and not run.has_proxy:
        return ()
    judge = run.used_judge if run.mode is Mode.run else None
    judges = judge.adapters.values() if judge is not None else ()
    found = after.hooked(run.adapters.values(), folder), after.hooked(judges, RunFolder(folder).judge)
    return tuple(hooks for hooks in found if hooks.adapters)


def call(hooks: Sequence[Hooked], report: Report, folder: Path) -> bool:
    """Call all hooks, and return whether one failed, which changes nothing of the result.

    Raises `KeyboardInterrupt`: the other hooks are then not called.
    """
    finished, failed = Finished(folder, report), False
    for each in hooks:
        try:
            failed |= run_async(after.call(each, finished))
        except UserError as error:
            to_stderr(f"launcher: {error}")
    return failed
