"""``launcher score RUN``: score the stored answers of a run again, with other settings."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import parser
from launcher.cli.commands.target import out
from launcher.core.errors import UserError


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the settings that the command stands for. Raises `UserError`, and `SystemExit` after ``--help``."""
    asked = parser("score")
    asked.add_argument("run", metavar="RUN", help="the folder of a run")
    asked.add_argument("--out", metavar="FOLDER", help="the folder of the new scores; default: a new one in outputs")
    asked.add_argument("--plan", action="store_true", help="show what would be scored, and score nothing")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings to change")
    given = asked.parse_intermixed_args(list(arguments))
    if not given.run:
        raise UserError("score: RUN is empty")
    modes = [override for override in given.overrides if override.startswith("mode=")]
    if modes and modes != ["mode=plan"]:
        raise UserError(f"score: {modes[0]}: expected no mode, or mode=plan to see what would be scored")
    mode = [] if modes else ["mode=plan" if given.plan else "mode=score"]
    return [*mode, f"run={given.run}", *given.overrides, *out(given.out)]
