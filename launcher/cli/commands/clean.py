"""``launcher clean``: list what runs have left on the disk, and delete it when asked to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.cli.commands import parser
from launcher.cli.stored_runs import DAY_S, StoredRun, size_of, stored_runs
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.files import cache_folder

PLACES = ("outputs", "multirun")
"""Where runs and sweeps are stored by default."""


def run(arguments: Sequence[str]) -> int:
    """Print the folders, and delete them with ``--yes``; return the exit code. Raises `UserError`."""
    asked = parser("clean")
    asked.add_argument("folders", metavar="FOLDER", nargs="*", help="where to look; by default outputs and multirun")
    asked.add_argument("--older-than", metavar="DAYS", type=float, default=0.0, help="leave out what is younger")
    asked.add_argument("--caches", action="store_true", help="also list the launcher's caches")
    asked.add_argument("--yes", action="store_true", help="delete what is listed and not in use")
    given = asked.parse_args(list(arguments))
    if not 0 <= given.older_than < math.inf:
        raise UserError(f"clean: --older-than={given.older_than:g}: expected a number of days, 0 or more")
    found = [each for each in _found(given.folders) if each.age_s >= given.older_than * DAY_S]
    caches = list(_caches()) if given.caches else []
    _print(found, caches)
    free = [each.path for each in found if not each.in_use] + [path for path, _ in caches]
    if not given.yes:
        print(_advice(len(free), len(found) + len(caches)))
        return 0
    return _delete(free)


def _found(folders: Sequence[str]) -> Iterator[StoredRun]:
    """Yield what is stored in the folders, or in the default places; each once. Raises `UserError`."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"clean {folder}: no such folder; expected one that holds runs, such as outputs")
    seen = set[Path]()
    for root in folders or PLACES:
        for each in stored_runs(Path(root)):
            if each.path.resolve() not in seen:
                seen.add(each.path.resolve())
                yield each


def _caches() -> Iterator[tuple[Path, int]]:
    """Yield the caches and their bytes; the adapter ``caching`` has its default below the home directory."""
    for folder in sorted({cache_folder(), _home_cache()}):
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield each, size_of(each) if each.is_dir() else each.stat().st_size


def _home_cache() -> Path:
    try:
        return Path("~/.cache/launcher").expanduser()
    except RuntimeError:  # no home folder
        return cache_folder()


def _print(found: Sequence[StoredRun], caches: Sequence[tuple[Path, int]]) -> None:
    for each in sorted(found, key=lambda each: -each.size_bytes):
        use = f"   KEPT: {each.in_use}" if each.in_use else ""
        print(f"{_size(each.size_bytes)}  {each.age_s / DAY_S:7.1f} days  {each.what:<5}  {each.path}{use}")
    for path, size in caches:
        print(f"{_size(size)}                cache  {path}")
    total = sum(each.size_bytes for each in found) + sum(size for _, size in caches)
    print(f"{_size(total)}  in {len(found) + len(caches):,} places")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:10,.1f} MiB"


def _advice(free: int, listed: int) -> str:
    if not listed:
        return "There is nothing to delete here; launcher clean FOLDER looks elsewhere, --caches shows caches."
    return f"Nothing was deleted. With --yes, {free:,} of these are deleted for good."


def _delete(folders: Sequence[Path]) -> int:
    failed = 0
    for folder in folders:
        try:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        except OSError as error:
            failed += 1
            to_stderr(f"launcher: {folder} cannot be deleted: {error.strerror}")
        with suppress(OSError):
            folder.parent.rmdir()  # the folder of a day, if this was its last run
    print(f"Deleted {len(folders) - failed:,}.")
    return 1 if failed else 0
