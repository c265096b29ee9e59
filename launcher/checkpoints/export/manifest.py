"""``conversion.json``: what a folder was converted from, and the checksums of its files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from launcher.checkpoints.export.safetensors_file import sha256
from launcher.checkpoints.file_names import CONVERSION
from launcher.core.errors import UserError
from launcher.core.files import PARTIAL, read_json, replace_json, storing
from launcher.core.types import Json


@dataclass(frozen=True)
class Identity:
    """What decides the bytes of a conversion: another one may not continue in the same folder."""

    source: str
    tokenizer: str | None
    format: str
    dtype: str
    shard_gb: float
    quantize: str = "none"
    version: int = 1


class Manifest:
    """The record of one conversion in its folder. Made by `opened`, which holds the folder for one process."""

    def __init__(self, folder: Path, identity: Identity, facts: Mapping[str, Json], files: dict[str, str]) -> None:
        self.folder = folder
        self._identity = identity
        self._facts = facts
        self._files = files
        self.complete = False

    def holds(self, name: str) -> bool:
        """Whether a file is recorded and still has the bytes that were written."""
        file = self.folder / name
        return name in self._files and file.is_file() and sha256(file) == self._files[name]

    def add(self, name: str, digest: str) -> None:
        self._files[name] = digest
        self.save()

    def finish(self) -> None:
        self.complete = True
        self.save()

    def save(self) -> None:
        made = {"identity": asdict(self._identity), **self._facts, "complete": self.complete, "sha256": self._files}
        replace_json(
            self.folder / CONVERSION, made | {"bytes": {n: _size(self.folder / n) for n in self._files}}, indent=2
        )


@contextmanager
def opened(folder: Path, identity: Identity, facts: Mapping[str, Json], wait: bool = False) -> Iterator[Manifest]:
    """Claim a folder for a conversion and yield its record; what an earlier one left half written is removed.

    With ``wait``, another process that holds the folder is waited for. Raises `UserError` for a folder with other
    files, that of another conversion, and one that another process holds.
    """
    check(folder, identity)
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, wait):
        files = check(folder, identity)
        for partial in folder.rglob(f"*{PARTIAL}"):
            partial.unlink()
        manifest = Manifest(folder, identity, facts, files)
        manifest.save()
        yield manifest


def is_complete(folder: Path, identity: Identity) -> bool:
    """Tell whether a folder holds this whole conversion, by the sizes of its files. Raises `UserError` as `check`."""
    check(folder, identity)
    found = read_json(folder / CONVERSION)
    if not isinstance(found, dict) or found.get("complete") is not True:
        return False
    sizes = found.get("bytes")
    return isinstance(sizes, dict) and all(_size(folder / name) == size for name, size in sizes.items())


def is_whole(folder: Path, identity: Identity) -> bool:
    """Tell whether a folder holds this whole conversion, by the SHA-256 of its files. Raises `UserError` as `check`.

    All is read, once per process unless a file is replaced: a flipped bit changes no size and no time.
    """
    if not is_complete(folder, identity):
        return False
    files = check(folder, identity).items()
    return all(_has_digest(folder / name, digest, (folder / name).stat().st_mtime_ns) for name, digest in files)


@lru_cache(maxsize=4096)
def _has_digest(file: Path, digest: str, changed_ns: int) -> bool:
    return sha256(file) == digest


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def check(folder: Path, identity: Identity) -> dict[str, str]:
    """Return the checksums that a folder has recorded. Raises `UserError` if it is not this conversion's.

    So it does for a path that cannot become a folder: a link to nothing, or a place below a file.
    """
    _refuse_impossible(folder)
    if not folder.exists() or (folder.is_dir() and all(_is_begun(file) for file in folder.iterdir())):
        return {}
    found = read_json(folder / CONVERSION)
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        raise UserError(f"convert.path={folder}: not empty, and not of a conversion; choose a new folder")
    for key, value in asdict(identity).items():
        if (before := found["identity"].get(key)) != value:
            raise UserError(
                f"convert.path={folder}: holds the conversion with {key}={before}, not {value}; choose a new folder"
            )
    files = found.get("sha256")
    return dict(files) if isinstance(files, dict) else {}


def _refuse_impossible(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise UserError(f"convert.path={folder}: {place} is a link to {place.readlink()}, which is not there")
        if place.exists():
            if not place.is_dir():
                raise UserError(f"convert.path={folder}: {'' if place == folder else f'{place} is '}not a folder")
            return


def _is_begun(file: Path) -> bool:
    """Tell whether a file is the record that another process writes at this moment."""
    return file.name.startswith(f".{CONVERSION}.") and file.name.endswith(PARTIAL)


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold the folder against another process; the system lets go of it when this one ends, however that is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"convert.path={folder}: another process is converting into it") from None
        yield
    finally:
        os.close(opened)
