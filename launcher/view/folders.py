"""The folders of runs, sweeps and watches: what a folder is, where it stands, and which there are."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.core.kinds import Kind, kind_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.view.cached import JsonFiles

LOST_S = 60.0
"""A run that has written no ``stage.json`` for so long was killed, or its machine cannot be reached."""
DEPTH = 6
MOST = 20_000
"""So deep, and so many folders, are looked at."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands: ``status`` is ``running``, ``lost``, ``submitted``, ``waiting`` or that of its results."""

    status: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.status not in ("running", "lost", "submitted", "waiting")


def standing(stage: Mapping[str, Json], results: Mapping[str, Json], files: RunFolder) -> Standing:
    """Return where a run stands, of which two files were read."""
    if stage:
        quiet_s = time.time() - float(stage.get("time") or 0)
        if quiet_s <= LOST_S:
            return Standing("running", str(stage.get("pause") or ""))
        why = f"no heartbeat for {quiet_s:.0f} s: it was killed, or its machine is away; resume={files.path} continues"
        return Standing("lost", why)
    if results:
        return Standing(str(results.get("status")), str(results.get("reason") or ""))
    if files.job.exists():
        return Standing("submitted", "its job has not begun")
    return Standing("waiting", "it has not begun, or it was killed before it wrote anything")


def all_folders(root: Path) -> Iterator[tuple[str, Kind]]:
    """Yield each run, sweep and watch below ``root`` with its path from there, and what it is; not points of those."""
    left = [(root, "", 0)]
    seen = 0
    while left:
        folder, name, depth = left.pop()
        kind = kind_of(folder)
        if kind is not None:
            yield name, kind
        elif depth < DEPTH:
            inner = list(_inside(folder))
            seen += len(inner)
            left += [(folder / each, f"{name}/{each}" if name else each, depth + 1) for each in inner]
        if seen > MOST:
            return


def points(folder: Path) -> list[str]:
    """Return the names of the runs inside a sweep or a watch, in natural order."""
    names = list(_runs_in(folder, kind_of(folder)))
    return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def _runs_in(folder: Path, kind: Kind | None) -> Iterator[str]:
    """Yield the runs of a sweep or a watch; those of a watch over several settings lie one folder deeper."""
    for name in _inside(folder):
        if (found := kind_of(folder / name)) is Kind.run:
            yield name
        elif found is None and kind is Kind.watch:
            yield from (f"{name}/{inner}" for inner in _inside(folder / name) if _is_run(folder / name / inner))


def _is_run(folder: Path) -> bool:
    return kind_of(folder) is Kind.run


def _inside(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            yield from sorted(
                entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return


@dataclass(frozen=True)
class Place:
    """A folder that a page is about: the root it lies in, its path from there, and what it is."""

    root: int
    name: str
    path: Path
    kind: Kind


class Roots:
    """The folders that pages are about, and nothing outside of them."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = [folder.absolute() for folder in folders]
        self.files = JsonFiles()

    @property
    def single(self) -> bool:
        """Whether there is one run, sweep or watch, and no index."""
        return len(self.folders) == 1 and kind_of(self.folders[0]) is not None

    def place(self, text: str) -> Place | None:
        """Return the folder of a page's path, ``<root>/<path in it>``; None for any that is none of ours."""
        number, _, name = text.partition("/")
        parts = name.split("/") if name else []
        if not number.isdigit() or int(number) >= len(self.folders) or any(_is_odd(part) for part in parts):
            return None
        root = self.folders[int(number)]
        path = root.joinpath(*parts)
        try:
            if not path.resolve(strict=True).is_relative_to(root.resolve()):
                return None
            kind = kind_of(path)
        except (OSError, ValueError):
            return None
        return None if kind is None else Place(int(number), name, path, kind)

    def every(self) -> Iterator[Place]:
        """Yield each run, sweep and watch of all roots."""
        for number, root in enumerate(self.folders):
            for name, kind in all_folders(root):
                yield Place(number, name, root / name, kind)


def _is_odd(part: str) -> bool:
    return part in ("", ".", "..") or part.startswith(".") or "\0" in part or os.sep in part
