"""The commands of ``launcher COMMAND ARGUMENTS``; any other command line is Hydra's."""

from __future__ import annotations

import difflib
import re
import textwrap
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from launcher.core.console import terminal_width, to_stderr
from launcher.core.credentials import shown
from launcher.core.errors import UserError
from launcher.core.files import refused


@dataclass(frozen=True)
class Command:
    """What a command does, and lines that use it."""

    about: str
    example: str


COMMANDS = {
    "eval": Command(
        "evaluate a server (its URL) or a checkpoint (its path)",
        "launcher eval /ckpt/my_model --tasks arc_easy,hellaswag evaluate.limit=100",
    ),
    "serve": Command(
        "serve a checkpoint and validate it, until Ctrl-C",
        "launcher serve /ckpt/my_model backend.port=8000",
    ),
    "check": Command(
        "is a server right, and how fast? several are compared",
        "launcher check http://127.0.0.1:8000/v1",
    ),
    "convert": Command(
        "write a checkpoint in another layout",
        "launcher convert /ckpt/my_nemo my_model_hf convert.dtype=bf16",
    ),
    "view": Command("show runs in a browser, while they go on and afterwards", "launcher view outputs"),
    "status": Command(
        "show the job of a run, or the jobs of a sweep",
        "launcher status outputs/2026-11-23/12-00-00-000000",
    ),
    "cancel": Command(
        "cancel the job of a run, or all jobs of a sweep",
        "launcher cancel outputs/2026-11-23/12-00-00-000000",
    ),
    "logs": Command("print all logs of a run by time, and follow them", "launcher logs RUN -f --level warning"),
    "score": Command(
        "score a run's stored answers again, with other settings",
        "launcher score RUN tasks.addition.extract='[0-9]+'",
    ),
    "compare": Command(
        "say which of several runs is better, and how sure that is",
        "launcher compare RUN_A RUN_B --out comparison",
    ),
    "export": Command(
        "write results for lm-eval, Inspect, MLflow, W&B, or as tables",
        "launcher export RUN --to csv,mlflow",
    ),
    "race": Command(
        "evaluate two models until it is clear which is better",
        "launcher race /ckpt/base /ckpt/tuned --tasks arc_easy",
    ),
    "gate": Command(
        "decide whether a run may pass: exit code 0, 4 or 5",
        "launcher gate RUN --policy gate.yaml --junit gate.xml",
    ),
    "tasks": Command(
        "list the tasks, explain one, or search those of lm-eval",
        "launcher tasks gsm8k; launcher tasks lm_eval mmlu",
    ),
    "models": Command("list the models, or describe one with its settings", "launcher models checkpoint"),
    "engines": Command("list the engines, or describe one with its settings", "launcher engines megatron"),
    "backends": Command("list the backends, or describe one with its settings", "launcher backends vllm"),
    "adapters": Command("list the adapters, or describe one with its settings", "launcher adapters caching"),
    "clean": Command(
        "list the outputs and caches with their sizes; --yes deletes them",
        "launcher clean --older-than 30 --yes",
    ),
    "help": Command(
        "describe a command, a group of settings, or one key",
        "launcher help evaluate; launcher help backend ray; launcher help evaluate.until",
    ),
}
"""The module of each command's name in this package has ``run(arguments)``, which returns the exit code, or
``as_overrides(arguments)``, which returns the settings that the command stands for, or ``launched(arguments, launch)``,
which returns either and may launch runs itself."""


INSTEAD = {
    ("convert", "--out"): "FOLDER, the second argument, is the folder to write",
    ("race", "--plan"): "launcher eval A --plan plans the run of one model",
}
"""Options that another command has, and what works in this one."""
UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (--[\w-]+)")
NO_NUMBER = re.compile(r"argument (--[\w-]+): invalid (?:float|int) value: '(.*)'")
"""How argparse says that an option takes a number."""
NO_CHOICE = re.compile(r"argument (--[\w-]+): invalid choice: '(.*)' \(choose from (.*)\)")
"""How argparse says that an option takes one of several words."""
ELSEWHERE = {
    "run": "launcher eval TARGET",
    "evaluate": "launcher eval TARGET",
    "plan": "launcher eval TARGET --plan",
    "validate": "launcher check TARGET",
    "bench": "launcher check TARGET",
    "benchmark": "launcher check TARGET",
    "resume": "launcher resume=RUN",
    "watch": "launcher mode=watch watch.folder=FOLDER",
    "proxy": "launcher mode=proxy",
    "list": "launcher tasks, launcher models, launcher adapters or launcher backends",
    "ls": "launcher tasks, launcher models, launcher adapters or launcher backends",
    "version": "launcher --version",
    "report": "launcher view RUN",
    "diff": "launcher compare RUN RUN",
}
"""Words that one might try, and what does that here."""


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
    """Return what each command does, as wide as the terminal."""
    width = len("  launcher ") + max(map(len, COMMANDS)) + 2
    return "\n".join(
        textwrap.fill(
            command.about,
            terminal_width(),
            initial_indent=f"  launcher {name}".ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for name, command in COMMANDS.items()
    )


def folder_of(name: str, arguments: Sequence[str]) -> Path:
    """Read the arguments of a command that takes one folder. Raises `UserError`; `SystemExit` after ``--help``."""
    asked = parser(name)
    asked.add_argument("folder", metavar="RUN", help="the folder of a run or sweep")
    folder: str = asked.parse_args(list(arguments)).folder
    if not folder:
        asked.error("RUN is empty")
    return Path(folder)


def show_options(name: str, group: str, arguments: Sequence[str]) -> int:
    """Run a command that lists the options of a group, or describes one. Raises `UserError`."""
    asked = parser(name)
    asked.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default="",
        help=f"one of them, as in {group}={'[NAME]' if group == 'adapters' else 'NAME'}",
    )
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
    command = COMMANDS[name]
    about, example = command.about, command.example.replace("; ", "\n  ")
    return _Parser(
        prog=f"launcher {name}",
        description=f"{about[0].upper()}{about[1:].rstrip('?')}{'?' if about.endswith('?') else '.'}",
        epilog=f"for example:\n  {example}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Once(Action):
    """Stores a value, and refuses an option that is given twice with two values: one of them would be lost."""

    def __call__(self, parser: ArgumentParser, given: Namespace, value: Any, option: str | None = None) -> None:
        before = getattr(given, self.dest, self.default)
        if option is not None and before not in (self.default, value):
            parser.error(f"{option} is given twice, with {shown(str(before))} and {shown(str(value))}; give it once")
        setattr(given, self.dest, value)


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def add_argument(self, *names: Any, **how: Any) -> Action:
        """Add an argument; one that may be left out is not among those that an error calls required."""
        if how.get("nargs") == "*":
            how.setdefault("default", [])
        return super().add_argument(*names, **how)

    def error(self, message: str) -> NoReturn:
        message = NO_NUMBER.sub(r"\1=\2: expected a number", message)
        if found := NO_CHOICE.fullmatch(message):
            option, value, choices = found.groups()
            close = difflib.get_close_matches(value, known := re.findall(r"\w+", choices), n=1)
            message = f"{option}={value}: expected one of {', '.join(known)}"
            message += f" (did you mean {close[0]}?)" if close else ""
        usage = " ".join(self.format_usage().split())
        raise UserError(f"{self.prog.removeprefix('launcher ')}: {message}{self._meant(message)}; {usage}")

    def _meant(self, message: str) -> str:
        """Return what an option that does not exist stands for: one with a like name, or a setting."""
        if not (found := UNKNOWN_OPTION.match(message)):
            return ""
        if instead := INSTEAD.get((self.prog.removeprefix("launcher "), found[1])):
            return f"; {instead}"
        flags = [flag for action in self._actions for flag in action.option_strings]
        if close := difflib.get_close_matches(found[1], flags, n=1, cutoff=0.75):
            return f" (did you mean {close[0]}?)"
        if not any(action.metavar == "KEY=VALUE" for action in self._actions):
            return ""
        from launcher.cli.hints import KEYS_ELSEWHERE, for_key

        name = found[1].lstrip("-").replace("-", "_")
        if name in KEYS_ELSEWHERE:
            return f"; {KEYS_ELSEWHERE[name]}"
        keys = for_key(name, []).removeprefix("did you mean ").removesuffix("?").split(" or ")
        key = name if name in keys else keys[0]
        return f"; a setting has no dashes: {key}=<value>" if key else ""


def _unknown(word: str) -> str:
    if meant := _meant(word):
        return f"{shown(word)}: no such command; write {meant}"
    close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.7)
    guess = f" (did you mean {close[0]}?)" if close else ""
    commands = ", ".join(COMMANDS)
    return f"{shown(word)}: no such command{guess}; expected one of {commands}, or settings as key=value"


def _meant(word: str) -> str:
    """Return what to write for a first word that is no command: an address, a path, or a word of other programs."""
    if word.startswith(("http://", "https://")) or "/" in word:
        return f"launcher eval {shown(word)}"
    from launcher.cli.options import options_of

    if word in options_of("tasks"):
        return f"launcher eval TARGET --tasks {word}"
    return ELSEWHERE.get(word.lower(), "")
