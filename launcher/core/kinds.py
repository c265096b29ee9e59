"""What a folder is: that of a run, a sweep or a watch, or none of ours."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from launcher.core.run_folder import RunFolder


class Kind(Enum):
    """What a folder is."""

    run = "run"
    sweep = "sweep"
    watch = "watch"


def kind_of(folder: Path, *, strict: bool = False) -> Kind | None:
    """Return what a folder is; None if it is none of ours.

    ``strict`` is for what deletes: a link is none of ours. Nor is a folder with a report alone, which may have been
    copied beside other files.
    """
    files = RunFolder(folder)
    if strict and folder.is_symlink():
        return None
    if files.watch.is_file():
        return Kind.watch
    if files.multirun.is_file() or files.sweep.is_file():
        return Kind.sweep
    is_run = files.hydra.is_dir() or files.lease.is_file() or (not strict and files.results.is_file())
    return Kind.run if is_run else None
