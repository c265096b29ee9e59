"""Finds the newest iteration in a training run's checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"


def latest(path: Path) -> Path:
    """Return the ``iter_XXXXXXX`` (or ``release``) folder that the tracker file names; ``path`` if there is no tracker.

    Raises `CheckpointError` if the tracker is damaged or names a folder that is not there.
    """
    tracker = path / TRACKER
    if not tracker.is_file():
        return path
    word = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if not word.isdecimal() and word != "release":
        raise CheckpointError(f"{tracker}: holds {word[:40]!r} (expected an iteration number)")
    folder = path / (word if word == "release" else f"iter_{int(word):07d}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: missing (expected the checkpoint that {tracker.name} names)")
    return folder
