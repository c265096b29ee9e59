"""Finds the files that a task names: in the working directory, or beside the option file of the task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.core.errors import TaskError
from launcher.core.types import resolve

_beside: list[Path] = []


def search_beside(folders: Iterable[Path]) -> None:
    """Say which folders of option files, as ``--config-dir`` names them, this process reads tasks of."""
    _beside[:] = [place for folder in folders for place in (folder / "tasks", folder)]


def located(path: str) -> Path:
    """Return the file or folder of ``path``.

    ``package:<name>/<file>`` is inside an installed package. A relative path is looked up in the working directory, and
    in ``tasks/`` and the folder of ``--config-dir``. Raises `TaskError` where there is none, or more than one.
    """
    try:
        found = resolve(path)
    except FileNotFoundError as error:
        raise TaskError(str(error)) from None
    places = [found] if found.is_absolute() else [Path.cwd() / found, *(folder / found for folder in _beside)]
    there = list({place.resolve(): place for place in places if place.exists()}.values())
    if not there:
        raise TaskError(f"{path}: there is no file or folder {' or '.join(dict.fromkeys(map(str, places)))}")
    if len(there) > 1:
        raise TaskError(f"{path}: there are {_listed(there)}; expected an absolute path, or one of them only")
    return there[0]


def _listed(places: Sequence[Path]) -> str:
    return " and ".join(map(str, places))
