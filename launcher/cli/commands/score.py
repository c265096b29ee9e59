"""``launcher score FOLDER``: score the stored answers of a run again, with other settings."""

from __future__ import annotations

from argparse import REMAINDER
from collections.abc import Sequence

from launcher.cli.commands import parser


def run(arguments: Sequence[str]) -> int:
    """Show the usage; with a folder, the program is that of `as_overrides`. Raises `UserError`, and `SystemExit`."""
    asked = parser("score")
    asked.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs=REMAINDER, help="settings to change")
    asked.parse_args(list(arguments))
    return 0


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the settings that the command stands for."""
    return ["mode=score", f"run={arguments[0]}", *arguments[1:]]
