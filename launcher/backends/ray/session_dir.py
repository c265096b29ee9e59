"""The private folder of one Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_LENGTH = 16
"""Ray's Unix sockets lie up to 90 bytes deeper, and their paths may have 107."""
RAY_SUBDIR = "r"
"""Ray's part of the folder: Ray makes it readable for every user, but not the folder around it."""


@contextmanager
def create(token: str) -> Iterator[Path]:
    """Yield an empty folder with the access ``token``, which only this user can read; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="launcher-ray-", dir=_parent()))
    try:
        with open(os.open(folder / "token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(token)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= MAX_LENGTH else "/tmp"
