"""``launcher score RUN``: score the stored answers of a run again, with other settings."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import contradictions, parser
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
    if other := next((each for each in given.overrides if each.startswith("mode=") and each != "mode=plan"), None):
        raise UserError(f"score: {other}: expected no mode, or mode=plan to see what would be scored")
    told = [("RUN", f"run={given.run}"), *contradictions.of_out(given.out)]
    contradictions.refuse("score", told, given.overrides)
    is_plan = given.plan or "mode=plan" in given.overrides
    rest = [override for override in given.overrides if override != "mode=plan"]
    return [f"mode={'plan' if is_plan else 'score'}", f"run={given.run}", *rest, *out(given.out)]
