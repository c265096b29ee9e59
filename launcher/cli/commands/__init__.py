"""The commands of ``launcher COMMAND ARGUMENTS``; any other command line is Hydra's."""

from __future__ import annotations

import difflib
from argparse import Action, ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from launcher.core.console import to_stderr
from launcher.core.credentials import shown
from launcher.core.errors import UserError
from launcher.core.files import refused


@dataclass(frozen=True)
class Command:
    """A command's arguments, as its usage shows them, and what it does."""

    arguments: str
    about: str


COMMANDS = {
    "eval": Command("TARGET [KEY=VALUE ...]", "evaluate a server's URL, or a checkpoint's path"),
    "serve": Command("TARGET [KEY=VALUE ...]", "serve a checkpoint and validate it, until Ctrl-C"),
    "check": Command("TARGET [...] [KEY=VALUE ...]", "is a server right, and how fast? several are compared"),
    "convert": Command("PATH FOLDER [KEY=VALUE ...]", "write a checkpoint in another layout"),
    "view": Command("[FOLDER ...]", "show runs in a browser, while they go on and afterwards"),
    "status": Command("FOLDER", "show where the job of a run folder stands, or the jobs of a sweep"),
    "cancel": Command("FOLDER", "cancel the job of a run folder, or all jobs of a sweep"),
    "logs": Command("FOLDER [-f]", "print all logs of a run by time, and follow them"),
    "score": Command("FOLDER [KEY=VALUE ...]", "score the stored answers of a run again, with other settings"),
    "compare": Command("RUN RUN ...", "say which of several runs is better, and how sure that is"),
    "export": Command("RUN --to FORMAT", "write results for lm-eval, Inspect, MLflow, W&B, or as tables"),
    "race": Command("A B [KEY=VALUE ...]", "evaluate two models until it is clear which is better"),
    "gate": Command("RUN --policy FILE", "decide whether a run may pass: exit code 0, 4 or 5"),
    "tasks": Command("[WORD ...]", "list the tasks, explain one, or search those of lm-evaluation-harness"),
    "models": Command("[NAME]", "list the models, or describe one with its settings"),
    "engines": Command("[NAME]", "list the engines, or describe one with its settings"),
    "backends": Command("[NAME]", "list the backends, or describe one with its settings"),
    "adapters": Command("[NAME]", "list the adapters, or describe one with its settings"),
    "clean": Command("[FOLDER ...]", "list the outputs and caches with their sizes; --yes deletes them"),
    "help": Command("[COMMAND|GROUP [OPTION]|KEY]", "describe a command, a group of settings, or one key"),
}
"""The module of each command's name in this package has ``run(arguments)``, which returns the exit code, or
``as_overrides(arguments)``, which returns the settings that the command stands for, or ``launched(arguments, launch)``,
which returns either and may launch runs itself."""


def is_override(word: str) -> bool:
    """Tell whether a first word belongs to Hydra's grammar: a flag, a setting, or a deletion."""
    return "=" in word or word.startswith(("-", "~", "+"))


Launch = Callable[[list[str]], int]
"""Composes and runs what settings ask for, and returns the exit code."""


def run(name: str, arguments: Sequence[str], launch: Launch | None = None) -> int | list[str]:
    """Run a command; return its exit code, or the settings that it stands for.

    An error of the user is one line on standard error.
    """
    try:
        if name not in COMMANDS:
            raise UserError(_unknown(name))
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, "as_overrides"):
            return list(module.as_overrides(arguments))
        if hasattr(module, "launched"):
            done: int | list[str] = module.launched(arguments, launch)
            return done
        return int(module.run(arguments))
    except SystemExit:  # the parser has shown the help
        return 0
    except UserError as error:
        line, code = str(error), error.exit_code
    except OSError as error:
        reason = refused(error)
        if reason is None:
            raise
        line, code = reason, UserError.exit_code
    to_stderr(f"launcher: {line}")
    return code


def listing() -> str:
    """Return one line for each command."""
    rows = {f"launcher {name} {command.arguments}": command.about for name, command in COMMANDS.items()}
    return "\n".join(f"  {usage:<30}  {about}" for usage, about in rows.items())


def folder_of(name: str, arguments: Sequence[str]) -> Path:
    """Read the arguments of a command that takes one folder. Raises `UserError`; `SystemExit` after ``--help``."""
    asked = parser(name)
    asked.add_argument("folder", metavar="FOLDER", help="the folder of a run or sweep")
    folder: str = asked.parse_args(list(arguments)).folder
    if not folder:
        asked.error("FOLDER is empty")
    return Path(folder)


def show_options(name: str, group: str, arguments: Sequence[str]) -> int:
    """Run a command that lists the options of a group, or describes one. Raises `UserError`."""
    asked = parser(name)
    asked.add_argument("name", metavar="NAME", nargs="?", default="", help=f"one of them, as in {group}=NAME")
    option = asked.parse_args(list(arguments)).name

    from launcher.cli import setting_pages

    if option:
        print(setting_pages.page(group, option))
    else:
        print("\n".join(setting_pages.listing(group)))
        print(f"\nlauncher {name} NAME describes one.")
    return 0


def parser(name: str) -> ArgumentParser:
    """Return a parser for the arguments of a command, whose errors are `UserError`."""
    about = COMMANDS[name].about
    return _Parser(prog=f"launcher {name}", description=f"{about[0].upper()}{about[1:]}.")


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def add_argument(self, *names: Any, **how: Any) -> Action:
        """Add an argument; one that may be left out is not among those that an error calls required."""
        if how.get("nargs") == "*":
            how.setdefault("default", [])
        return super().add_argument(*names, **how)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('launcher ')}: {message}; {' '.join(self.format_usage().split())}")


def _unknown(word: str) -> str:
    close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.7)
    guess = f" (did you mean {close[0]}?)" if close else ""
    commands = ", ".join(COMMANDS)
    return f"{shown(word)}: no such command{guess}; expected one of {commands}, or settings as key=value"
