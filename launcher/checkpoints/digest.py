"""The fingerprint of a set of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WHOLE = 256 * 2**20
"""Files up to this many bytes are hashed whole; of larger ones a block every `STRIDE` bytes, and the end."""

STRIDE = 64 * 2**20
BLOCK = 2**20


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Return ``sha256:...`` over names (relative to ``root``), sizes and content, in the order of the names."""
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        if file.is_file():
            digest.update(f"{_name(root, file)}\0{file.stat().st_size}\0".encode())
            _add(digest, file)
    return f"sha256:{digest.hexdigest()}"


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def _add(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    offsets = range(0, size, BLOCK) if size <= WHOLE else [*range(0, size - BLOCK, STRIDE), size - BLOCK]
    with file.open("rb") as stream:
        for offset in offsets:
            stream.seek(offset)
            digest.update(stream.read(BLOCK))
