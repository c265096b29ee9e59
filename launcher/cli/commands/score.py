"""``launcher score FOLDER``: score the stored answers of a run again, with other settings."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import parser
from launcher.core.errors import UserError


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the settings that the command stands for. Raises `UserError`, and `SystemExit` after ``--help``."""
    asked = parser("score")
    asked.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings to change")
    given = asked.parse_args(list(arguments))
    if not given.folder:
        raise UserError("score: FOLDER is empty")
    modes = [override for override in given.overrides if override.startswith("mode=")]
    if modes and modes != ["mode=plan"]:
        raise UserError(f"score: {modes[0]}: expected no mode, or mode=plan to see what would be scored")
    return [*([] if modes else ["mode=score"]), f"run={given.folder}", *given.overrides]
