"""What to say of a path that is no checkpoint: it may be a hub's name of a model, or lie beside the right one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from launcher.checkpoints.file_names import ADAPTER, CONVERSION
from launcher.core.files import PARTIAL

MARKS = ("config.json", "latest_checkpointed_iteration.txt", "run_config.yaml", "context/model.yaml")
"""Files of a folder that is a checkpoint."""

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


def unknown(path: Path, expected: str) -> str:
    """Return one line for a path of no known layout, with what was probably meant instead."""
    return f"{path}: not a checkpoint of a known layout (expected {expected}){meant(path)}"


def meant(path: Path) -> str:
    """Return what to add to a line about a path that is no checkpoint: what was probably meant instead, or nothing."""
    if not path.is_dir():
        beside = path.is_file() and (path.parent / "config.json").is_file()
        return f"; its folder is one: model.path={path.parent}" if beside else ""
    if (path / CONVERSION).is_file() and next(path.rglob(f"*{PARTIAL}"), None):
        return "; it holds a conversion that did not end: repeat its launcher convert"
    if (path / ADAPTER).is_file():
        return f"; it is an adapter: model.path=<its base> model.peft={path}"
    files = sorted(path.glob("*.gguf"))[:2]
    if files:
        return f"; it holds {files[0].name}: model.path={files[0]}"
    if any((path / name).is_file() for name in MARKS):
        return ""
    folders = sorted(file.parent for name in MARKS for file in path.glob(f"*/{name}"))
    if folders:
        return f"; it holds {folders[0].name}: model.path={folders[0]}"
    return "; it is empty" if not any(path.iterdir()) else ""


def snapshot(name: str) -> Path | None:
    """Return the newest snapshot of a model in the local cache of Hugging Face that has a configuration."""
    folder = _hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent if found else None


def _hub_cache() -> Path:
    """Return the cache's folder, by the variables that huggingface_hub reads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
