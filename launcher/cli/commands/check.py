"""``launcher check TARGET``: make the certificate of a server or a checkpoint, and of several servers side by side."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import Launch
from launcher.cli.commands.target import settings


def launched(arguments: Sequence[str], launch: Launch | None) -> int | list[str]:
    """Return the settings that the command stands for, or the exit code of a comparison of several targets.

    Raises `UserError`, and `SystemExit` after ``--help``.
    """
    from launcher.cli.commands import side_by_side

    targets, rest = side_by_side.split(arguments)
    if len(targets) > 1:
        assert launch is not None, "the program's entry gives it"
        return side_by_side.check(targets, rest, launch)
    asked = settings("check", "validate", arguments, tasks="")
    return asked if any(word.lstrip("+").startswith("load.test=") for word in asked) else [*asked, "load.test=true"]
