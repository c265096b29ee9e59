"""``launcher race A B``: evaluate two models on the same questions, until it is clear which is better."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from launcher.cli.commands import contradictions, parser
from launcher.cli.commands.target import names, of_target
from launcher.core.credentials import shown
from launcher.core.errors import UserError
from launcher.core.files import is_there, read_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import expanded

SETTINGS = re.compile(r"[+~]{0,2}[A-Za-z_][\w/.@]*=")
"""How a model begins that is given as settings."""


def run(arguments: Sequence[str]) -> int:
    """Race, print the verdict, and write it; return the worst exit code. Raises `UserError`."""
    from launcher.cli import race

    given = _parsed(arguments)
    folder = given.resume or given.out or _new_folder()
    words = _known(folder) if given.resume else _words(given)
    return race.race(words, folder, Console())


def _parsed(arguments: Sequence[str]) -> Namespace:
    asked = parser("race")
    target = "a server's URL, a checkpoint's path, a model's option, or settings in quotes"
    asked.add_argument("a", metavar="A", nargs="?", help=target)
    asked.add_argument("b", metavar="B", nargs="?", help="the other model")
    asked.add_argument("--tasks", metavar="A,B", help="the tasks, separated by commas")
    asked.add_argument("--config-dir", metavar="FOLDER", help="a folder of option files of your own")
    asked.add_argument("--out", metavar="FOLDER", type=Path, help="where the verdict and both runs are written")
    asked.add_argument("--resume", metavar="FOLDER", type=Path, help="continue an interrupted race")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings of both models")
    given = asked.parse_intermixed_args(list(arguments))
    if given.resume is None and given.b is None:
        raise UserError("race: two models are needed: launcher race A B, or launcher race --resume FOLDER")
    if given.resume is not None and given.a is not None:
        raise UserError(f"race: {given.a}: with --resume, the models are those of the race's folder; leave it out")
    for option in ("tasks", "out", "config_dir") if given.resume is not None else ():
        if getattr(given, option) is not None:
            name = f"--{option.replace('_', '-')}"
            raise UserError(f"race: {name}: with --resume, all is as the race began; leave {name} out")
    if "" in (given.tasks, str(given.out or "-"), given.config_dir):
        raise UserError("race: an option has an empty value; leave it out for the default")
    return given


def _words(given: Namespace) -> list[list[str]]:
    """Return the settings of each model."""
    listed = [f"tasks=[{names(given.tasks)}]"] if given.tasks is not None else []
    flags = ["--config-dir", str(expanded(given.config_dir).absolute())] if given.config_dir else []
    told = [("--tasks", setting) for setting in listed]
    sides = [(f"{label}, {shown(target)}", _of(target)) for label, target in (("A", given.a), ("B", given.b))]
    for label, own in sides:
        _check_folders([*own, *given.overrides])
        contradictions.refuse("race", [*told, *((label, setting) for setting in own)], given.overrides)
        contradictions.refuse("race", told, own)
    return [[*flags, *own, *listed, *given.overrides] for _, own in sides]


def _check_folders(words: Sequence[str]) -> None:
    """Raise `UserError` for a setting that names a folder, of which a race has its own."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key in ("resume", "run"):
            raise UserError(f"race: {word}: a race is continued by launcher race --resume FOLDER; leave {key}= out")
        if key in contradictions.FOLDERS:
            raise UserError(f"race: {word}: both runs are written below --out FOLDER; leave {key}= out")


def _of(target: str) -> list[str]:
    is_settings = SETTINGS.match(target) and not is_there(target)
    return shlex.split(target) if is_settings else of_target("race", target)


def _new_folder() -> Path:
    now = datetime.now()
    return Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"


def _known(folder: Path) -> list[list[str]]:
    found = read_json(RunFolder(folder).race)
    if not isinstance(found, dict) or "models" not in found:
        raise UserError(f"race: {folder}: there is no {RunFolder.race} in it; expected the folder of a race")
    return [list(map(str, words)) for words in found["models"]]
