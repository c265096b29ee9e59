"""Which task of ours asks what a task of lm-eval asks, where lm-eval's data cannot be had."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from launcher.core.files import conf_folder

EQUALS = re.compile(r"^# Equals lm-evaluation-harness'?(?: [\d.]+'s)? (?:group )?(\w+)(.*)", re.MULTILINE)
"""The line of an option file that names the task of lm-eval that it equals, and on which items."""


def equal_task(name: str) -> str:
    """Return the option that asks what a task of lm-eval asks, as ``tasks=[arc_easy]``; empty if there is none."""
    return f"tasks=[{found}]" if (found := _equal_tasks().get(name)) else ""


@cache
def _equal_tasks() -> dict[str, str]:
    """Return the options by the task of lm-eval that they equal; of several the shortest name."""
    folder = conf_folder() / "tasks"
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (-len(file.stem), file.stem))
    found = ((EQUALS.search(file.read_text("utf-8")), _option(file, folder)) for file in files)
    return {match[1]: option for match, option in found if match and "over chat" not in match[2]}


def _option(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()
