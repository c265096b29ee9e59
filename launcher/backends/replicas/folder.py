"""The private folder of HAProxy's configuration and socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.core.cleanup import Leftovers, removed_on_exit

LONGEST = 60
"""The path of a Unix socket may have 107 bytes."""


@contextmanager
def created() -> Iterator[Path]:
    """Yield an empty folder that only this user can read; it is removed at the end, also after a `kill -9`."""
    usual = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="launcher-replicas-", dir=usual if len(usual) <= LONGEST else "/tmp")
    with removed_on_exit(Leftovers(folder)):
        yield Path(folder)
