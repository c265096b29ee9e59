"""The last step of a run: its results in the formats that ``export`` names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.pipeline.config import Mode, Run


def exports_of(run: Run) -> tuple[str, ...]:
    """Return the formats in which a run is exported: only one that asks, or scores, has results."""
    return tuple(run.export) if run.mode in (Mode.run, Mode.score) else ()


def export(names: Sequence[str], folder: Path) -> None:
    """Write every format. What fails is one line, and changes nothing of the run, which has its results.

    A run that failed before it asked has said why, and gets only the formats that say so, too.
    """
    if not names or not RunFolder(folder).results.exists():
        return
    from launcher.export import formats
    from launcher.export.source import Source

    source = Source(folder, folder.name)
    failed = source.results["status"] not in ("ok", "invalid")
    for name in names:
        if failed and formats.has_nothing([source], name):
            continue
        try:
            for _ in formats.write([source], [name], RunFolder(folder).export):
                pass
        except (UserError, OSError) as error:
            again = f"launcher export {shlex.quote(str(folder))} --to {name}"
            to_stderr(f"launcher: export={name}: {error}; the results are there; to try again: {again}")
