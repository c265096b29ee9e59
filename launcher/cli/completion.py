"""Completion of commands, their options and their names in a shell; Hydra completes groups, options and keys."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout

from launcher.cli import commands

FLAGS = frozenset({"-sc", "--shell-completion"})
WITH_SETTINGS = frozenset({"eval", "serve", "check", "race", "convert", "score"})
"""Commands that settings may follow."""
NAMES = {"models": "model", "engines": "engine", "backends": "backend", "adapters": "adapters", "tasks": "tasks"}
"""The group whose options a command takes by name."""


def is_asked(arguments: Sequence[str]) -> bool:
    """Tell whether a shell asks for completions, which Hydra's own line of ``install=`` makes it do."""
    return bool(FLAGS & set(arguments)) and any(word.startswith("query=") for word in arguments)


def complete(environment: Mapping[str, str]) -> str | None:
    """Print what may stand at the end of the shell's line; return the line that Hydra is to complete, if any."""
    line = environment.get("COMP_LINE", "")
    program, *words = line[: int(environment.get("COMP_POINT") or len(line))].split(" ")
    if os.path.basename(program) != "launcher" or not words:  # noqa: PTH119  (a word of a shell, no path of ours)
        return line
    first, last = words[0], words[-1]
    if len(words) == 1:
        print(" ".join(name for name in commands.COMMANDS if name.startswith(first)))
        return line
    if first not in commands.COMMANDS:
        return line
    print(" ".join(word for word in _words(first, last) if word.startswith(last)))
    return _for_hydra(program, words) if first in WITH_SETTINGS and not last.startswith("-") else None


def _words(command: str, last: str) -> Iterator[str]:
    if last.startswith("-"):
        page = io.StringIO()
        with redirect_stdout(page):
            commands.run(command, ["--help"])
        yield from dict.fromkeys(re.findall(r"--[\w-]+", page.getvalue().partition("for example:")[0]))
    elif command == "help":
        from launcher.cli.options import groups

        yield from [*commands.COMMANDS, *groups()]
    elif command in NAMES:
        from launcher.cli.options import options_of

        yield from options_of(NAMES[command])


def _for_hydra(program: str, words: Sequence[str]) -> str:
    """Return the line without the command and its own arguments."""
    return " ".join([program, *(word for word in words[1:-1] if "=" in word), words[-1]])
