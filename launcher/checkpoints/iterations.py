"""Find the newest iteration in a training run's checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from launcher.core.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
LONGEST = 20
"""Bytes of a tracker file that are read; an iteration has fewer digits."""


def latest(path: Path) -> Path:
    """Return the ``iter_XXXXXXX`` (or ``release``) folder that the tracker file names; ``path`` if there is no tracker.

    Raises `CheckpointError` if the tracker is damaged or names a folder that is not there.
    """
    tracker = path / TRACKER
    if not tracker.is_file():
        return path
    with tracker.open("rb") as stream:
        word = stream.read(LONGEST).decode("utf-8", errors="replace").strip()
    if not (word.isascii() and word.isdecimal() and len(word) < LONGEST) and word != "release":
        raise CheckpointError(f"{tracker}: holds {word[:40]!r} (expected an iteration number)")
    folder = path / (word if word == "release" else f"iter_{int(word):07d}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: missing (expected the checkpoint that {tracker.name} names)")
    return folder
