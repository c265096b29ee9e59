"""Refuses a setting that says otherwise than the words of a command: Hydra would let one win without a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.core.credentials import shown
from launcher.core.errors import UserError

Told = tuple[str, str]
"""A word of a command, as a message calls it, and the setting that it stands for."""


def of_mode(mode: str, *, plan: bool) -> Told:
    """Return what a command and its ``--plan`` say about the mode."""
    return ("--plan", "mode=plan") if plan else (f"the command, which is mode={mode}", f"mode={mode}")


def of_out(folder: str | None) -> list[Told]:
    """Return what ``--out`` says: no setting may name another folder to write."""
    return [] if folder is None else [("--out", f"{key}={folder}") for key in FOLDERS]


FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "resume")
"""Settings that name the folder of a run or sweep."""


def refuse(command: str, told: Iterable[Told], overrides: Sequence[str], *, swept: bool = False) -> None:
    """Raise `UserError` for a setting that contradicts what was ``told``; ``mode=plan`` plans what any command does.

    In a sweep, the value that was told may be one of several.
    """
    words = list(told)
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        for what, setting in words:
            name, _, meant = setting.partition("=")
            if key == name and override != "mode=plan" and not _agree(meant, value, swept):
                raise UserError(f"{command}: {shown(override)} contradicts {what}; leave one of them out")


def _agree(meant: str, value: str, swept: bool) -> bool:
    ours, given = _parts(meant), _parts(value)
    return set(ours) <= set(given) if swept else ours == given


def _parts(value: str) -> list[str]:
    """Return the names of a list, or one value, without brackets, quotes and the slash at a folder's end."""
    return [part.strip(" []").strip("'\"").rstrip("/") for part in value.split(",")]
