"""``launcher engines``: list the engines, or describe one with its settings."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands import show_options


def run(arguments: Sequence[str]) -> int:
    """Print the list or the page; return the exit code. Raises `UserError`."""
    return show_options("engines", "engine", arguments)
