"""The folder of the option files."""

from __future__ import annotations

from pathlib import Path


def conf_folder() -> Path:
    """Return the folder of option files: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())
