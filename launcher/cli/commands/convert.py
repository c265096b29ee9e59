"""``launcher convert PATH FOLDER``: write a checkpoint in another layout."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import contradictions, parser
from launcher.cli.commands.target import SETTING
from launcher.cli.options import options_of
from launcher.core.errors import UserError
from launcher.core.files import is_there
from launcher.settings.overrides import quote_if_needed


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the settings that the command stands for. Raises `UserError`, and `SystemExit` after ``--help``."""
    asked = parser("convert")
    asked.add_argument("path", metavar="PATH", help="a checkpoint of any layout, or a model's option")
    asked.add_argument("folder", metavar="FOLDER", help="the folder to write")
    asked.add_argument("--plan", action="store_true", help="show what would be written, and write nothing")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings to change, such as convert.dtype")
    given = asked.parse_intermixed_args(list(arguments))
    for name, word in (("PATH", given.path), ("FOLDER", given.folder)):
        if SETTING.match(word) and not is_there(word):
            raise UserError(
                f"convert: {name} is missing beside the setting {word}; expected PATH FOLDER [KEY=VALUE ...]"
            )
    known = given.path in options_of("model")
    model = [f"model={given.path}"] if known else ["model=checkpoint", f"model.path={quote_if_needed(given.path)}"]
    mode = contradictions.of_mode("convert", plan=given.plan)
    folder = f"convert.path={quote_if_needed(given.folder)}"
    told = [mode, *(("PATH", setting) for setting in model), ("FOLDER", folder)]
    contradictions.refuse("convert", told, given.overrides)
    return [mode[1], *model, folder, *given.overrides]
