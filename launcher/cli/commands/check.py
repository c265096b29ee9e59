"""``launcher check TARGET``: make the certificate of a server or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.commands.target import settings


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the settings that the command stands for. Raises `UserError`, and `SystemExit` after ``--help``."""
    return [*settings("check", "validate", arguments, tasks=""), "load.test=true"]
