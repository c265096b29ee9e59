"""``launcher help``: list the commands."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli import commands


def run(arguments: Sequence[str]) -> int:
    """Print the list, or the help of one command; return the exit code."""
    if arguments and arguments[0] != "help":
        return commands.run(arguments[0], ["--help"])
    print(
        "launcher group=option ... key=value ...\n  Serve, validate, evaluate and report; "
        f"launcher --help lists the groups.\n\nCommands:\n{commands.listing()}"
    )
    return 0
