"""What to say of a path that does not exist, which may be the name of a model on a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""A name such as ``meta-llama/Llama-3.1-8B``; it never starts with a dot."""


def missing(path: Path, expected: str) -> str:
    """Return one line for a path that does not exist; the cache of a hub's files is looked into for its name."""
    line = f"{path}: no such file or folder (expected {expected})"
    name = str(path)
    if not HUB_NAME.fullmatch(name) or path.parent.exists():
        return line
    cached = snapshot(name)
    if cached:
        return f"{line}; a copy of this model is in the Hugging Face cache: model.path={cached}"
    get = f"hf download {name} --local-dir {path.name}"
    return f"{line}; for a model of the Hugging Face Hub: {get}, then model.path={path.name}"


def snapshot(name: str) -> Path | None:
    """Return the newest snapshot of a model in the local cache of Hugging Face that has a configuration."""
    folder = _hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent if found else None


def _hub_cache() -> Path:
    """Return the cache's folder, by the variables that huggingface_hub reads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
