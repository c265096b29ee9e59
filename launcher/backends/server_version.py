"""Where the program of a server is, and which version of its package is installed beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

TIMEOUT_S = 10.0
LONGEST_SHEBANG = 512
CODE = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


def found_program(words: Sequence[str]) -> str | None:
    """Return the path of a program, or None if it is not here. A module that this Python runs must be installed."""
    if not words:
        return None
    found = shutil.which(words[0]) or _beside(words[0])
    if found and Path(found) == Path(sys.executable) and words[1:2] == ["-m"] and len(words) > 2:
        return found if find_spec(words[2].split(".")[0]) else None
    return found


def located(words: Sequence[str]) -> list[str]:
    """Return a command whose program is found without an activated environment: ``python`` is this one."""
    name = words[0] if words else ""
    if name == "python":
        return [sys.executable, *words[1:]]
    beside = None if shutil.which(name) else _beside(name)
    return [beside or name, *words[1:]]


def _beside(name: str) -> str | None:
    """Return a program of this Python's environment, which need not be activated."""
    return shutil.which(str(Path(sys.executable).parent / name)) if "/" not in name else None


def installed_version(words: Sequence[str], distribution: str | None) -> str | None:
    """Return the version of a package in the environment of a Python program; None where it cannot be known."""
    found = found_program(words)
    if found is None or distribution is None:
        return None
    python = found if Path(found).name.startswith("python") else _interpreter(Path(found))
    if python is None:
        return None
    try:
        done = subprocess.run([python, "-c", CODE, distribution], capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _interpreter(script: Path) -> str | None:
    """Return the interpreter that the first line of a script names."""
    with script.open("rb") as file:
        first = file.read(LONGEST_SHEBANG).split(b"\n")[0]
    words = first.removeprefix(b"#!").split()
    return words[0].decode(errors="replace") if first.startswith(b"#!") and words else None
