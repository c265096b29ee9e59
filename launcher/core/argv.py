"""Commands in settings: words as a shell splits them, with names in braces that stand for values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from launcher.core.errors import UserError
from launcher.core.types import Json

FIELD = re.compile(r"\{\{([a-z_]+)\}\}|\{([a-z_]+)\}")
"""A name in braces; in double braces it is text. JSON in an argument does not match, because its keys are quoted."""


def names(command: str) -> set[str]:
    """Return the names in braces."""
    return {match[2] for match in FIELD.finditer(command) if match[2]}


def split(
    command: str, values: Mapping[str, Json], key: str, settings: Mapping[str, str], use: str = "starts a server"
) -> list[str]:
    """Return the arguments of ``command`` as a POSIX shell would split them, each name replaced by its value.

    ``key`` is the setting that holds it, ``settings`` those that give names their values, ``use`` what it is for.
    Raises `UserError` for an unknown name, for one without a value, and for a malformed command.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{key}={command}: {error}; must be a command as in a shell") from None
    if not arguments:
        raise UserError(f"{key}: is empty; must be a command that {use}")
    check(command, values, key, settings)
    return [filled(word, values) for word in arguments]


def check(text: str, values: Mapping[str, Json], key: str, settings: Mapping[str, str]) -> None:
    """Raise `UserError` for a name in ``text`` that is unknown or has no value."""
    for name in sorted(names(text)):
        if name not in values:
            raise UserError(f"{key}: {{{name}}} is unknown; expected one of {', '.join(values)}")
        if values[name] in (None, ""):
            raise UserError(f"{key}: {{{name}}} has no value; set {settings.get(name, name)}")


def filled(text: str, values: Mapping[str, Json], written: Callable[[str], str] = str) -> str:
    """Return ``text`` with the values in place of their names, each as ``written``."""
    return FIELD.sub(lambda match: f"{{{match[1]}}}" if match[1] else written(str(values[match[2]])), text)
