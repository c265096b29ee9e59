"""``launcher help``: list the commands."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli import commands


def run(arguments: Sequence[str]) -> int:
    """Print the list, or the help of one command; return the exit code."""
    if arguments and arguments[0] != "help":
        done = commands.run(arguments[0], ["--help"])
        return done if isinstance(done, int) else 0
    print(
        "launcher group=option ... key=value ...\n  Serve, validate, evaluate and report; "
        f"launcher --help lists the groups.\n\nCommands:\n{commands.listing()}"
    )
    return 0
