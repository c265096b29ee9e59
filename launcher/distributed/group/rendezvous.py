"""The rendezvous of a group: a file in a shared folder that only this user can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.files import install
from launcher.distributed.allocation import Allocation

VARIABLE = "LAUNCHER_RENDEZVOUS"


@dataclass(frozen=True)
class Rendezvous:
    """The leader's address, and what every connection must know."""

    host: str
    port: int
    secret: str = field(repr=False)


def folder() -> Path:
    """Return the shared folder of processes that torchrun or srun started: ``$LAUNCHER_RENDEZVOUS`` or ``outputs``."""
    return Path(os.environ.get(VARIABLE) or "outputs")


def file(folder: Path, allocation: Allocation) -> Path:
    """Return the file of a group; no other group has the same."""
    return folder / f".{allocation.name}.json"


@contextmanager
def published(path: Path, leader: Rendezvous) -> Iterator[None]:
    """Keep the file there, in place of that of a dead leader."""
    install(path, json.dumps(asdict(leader)), private=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the folder of a run is not empty
            path.parent.rmdir()


def read(path: Path) -> Rendezvous | None:
    """Return the leader's file; None if there is none yet. Raises `UserError` if other users can read it."""
    with suppress(OSError):
        next(path.parent.iterdir(), None)  # makes a network file system look again
    try:
        with path.open() as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise UserError(f"{path}: this user must own the file, and no other user may read or write it")
            return Rendezvous(**json.load(file))
    except (OSError, ValueError):
        return None
