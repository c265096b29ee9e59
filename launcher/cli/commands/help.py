"""``launcher help``: list the commands, or describe a command, a group of settings, an option or a key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from launcher.cli import commands
from launcher.core.errors import UserError


def run(arguments: Sequence[str]) -> int:
    """Print what is asked for; return the exit code. Raises `UserError`."""
    asked = commands.parser("help")
    asked.add_argument("words", metavar="WORD", nargs="*", help="a command, a group and its option, or a key")
    words: list[str] = asked.parse_args(list(arguments)).words
    if not words:
        print(
            f"{commands.listing()}\n\nlauncher COMMAND --help describes one; "
            "launcher --help lists the groups of settings as well."
        )
        return 0
    if len(words) == 1 and words[0] in commands.COMMANDS:
        commands.run(words[0], ["--help"])
        if not _is_group(words[0]):
            return 0
        print("\nAs settings:\n")
    print(_described([part for word in words for part in word.replace("=", "/").split("/")]))
    return 0


def _is_group(word: str) -> bool:
    from launcher.cli.options import groups

    return word in groups()


def _like_a_command(word: str) -> str:
    """Return what to say of a word that is a command but for a letter or two; empty for any other."""
    close = difflib.get_close_matches(word, commands.COMMANDS, n=1, cutoff=0.8)
    if not close:
        return ""
    return f"help {word}: no such command, group or key (did you mean {close[0]}?); launcher help lists commands"


def _described(words: Sequence[str]) -> str:
    from launcher.cli import setting_pages

    if setting_pages.is_group(words[0]) and len(words) <= 2:
        return setting_pages.page(*words)
    if len(words) == 1:
        try:
            return setting_pages.key_page(words[0])
        except UserError as error:
            raise UserError(_like_a_command(words[0]) or str(error)) from None
    raise UserError(f"help {' '.join(words)}: expected a command, a group with at most one option, or one key")
