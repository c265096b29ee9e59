"""What a command is about, as settings: the URL of a server, a checkpoint's path, or the name of a model's option."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from launcher.cli.commands import contradictions, parser
from launcher.cli.options import options_of
from launcher.core.credentials import shown
from launcher.core.errors import UserError
from launcher.core.files import is_there
from launcher.core.run_folder import RunFolder
from launcher.settings.overrides import quote_if_needed

URL = re.compile(r"https?://", re.IGNORECASE)
ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*:\d{1,5}(/.*)?|localhost(/.*)?|(\d{1,3}\.){3}\d{1,3}(/.*)?")
"""A server's address without its scheme."""


SETTING = re.compile(r"\+{0,2}[a-z_]+(\.[A-Za-z_]\w*)*=")
"""What a setting begins with."""


def settings(command: str, mode: str, arguments: Sequence[str], *, tasks: str | None = None) -> list[str]:
    """Return the settings that ``launcher COMMAND TARGET [OPTIONS] [KEY=VALUE ...]`` stands for.

    ``tasks`` are those without ``--tasks``, None for the default ones. Raises `UserError`, and `SystemExit` after
    ``--help``.
    """
    asked = parser(command)
    asked.add_argument("target", metavar="TARGET", help="a server's URL, a checkpoint's path, or a model's option")
    asked.add_argument("--tasks", metavar="A,B", help="the tasks, separated by commas")
    asked.add_argument("--config-dir", metavar="FOLDER", help="a folder of option files of your own")
    asked.add_argument("--out", metavar="FOLDER", help="the run folder; default: a new one in outputs")
    asked.add_argument("--plan", action="store_true", help="show what would be done, and start nothing")
    asked.add_argument("-m", "--multirun", action="store_true", help="a sweep over the settings with several values")
    asked.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings to change")
    given = asked.parse_intermixed_args(list(arguments))
    if empty := next((option for option in ("tasks", "out") if getattr(given, option) == ""), None):
        raise UserError(f"{command}: --{empty}: the value is empty; leave the option out for the default")
    chosen = given.tasks if given.tasks is not None else tasks
    listed = [] if chosen is None else [f"tasks=[{names(chosen)}]"]
    flags = ["--config-dir", given.config_dir] if given.config_dir else []
    flags += ["--multirun"] if given.multirun else []
    target, overrides = _parted(command, [given.target, *given.overrides])
    model, chosen_mode = of_target(command, target), contradictions.of_mode(mode, plan=given.plan)
    told = [chosen_mode, *((f"the target {shown(target)}", setting) for setting in model)]
    told += [("--tasks", setting) for setting in listed if given.tasks is not None]
    if given.plan and mode == "run":
        _check_plan(overrides)
    contradictions.refuse(command, [*told, *contradictions.of_out(given.out)], overrides, swept=given.multirun)
    return [*flags, chosen_mode[1], *model, *listed, *overrides, *out(given.out, swept=given.multirun)]


def _check_plan(overrides: Sequence[str]) -> None:
    """Raise `UserError` for a plan of a run without tasks, which the run would refuse."""
    given = [word.partition("=")[2] for word in overrides if word.startswith("tasks=")]
    if given and given[-1].replace(" ", "") == "[]":
        raise UserError("tasks=[]: mode=run needs at least one task; launcher check TARGET --plan plans without tasks")


def _parted(command: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the target and the settings, in any order. Raises `UserError` where all words are settings."""
    targets = [word for word in words if not SETTING.match(word) or is_there(word)]
    if not targets:
        raise UserError(
            f"{command}: TARGET is missing beside the setting {words[0]}; "
            "expected a server's URL, a checkpoint's path, or a model's option"
        )
    at = words.index(targets[0])
    return targets[0], [*words[:at], *words[at + 1 :]]


def names(listed: str) -> str:
    """Return names that commas separate, without what stands around them.

    Raises `UserError` for other separators, and where no name is left.
    """
    if separators := set(listed) & set(";|&"):
        raise UserError(f"--tasks {listed}: commas separate the names, and not {' '.join(sorted(separators))}")
    found = ",".join(filter(None, (name.strip() for name in listed.strip().strip("[]").split(","))))
    if listed and not found:
        raise UserError(f"--tasks {listed}: there is no name in it; leave the option out for the default")
    return found


def out(folder: str | None, *, swept: bool = False) -> list[str]:
    """Return the setting that ``--out FOLDER`` stands for."""
    if folder is None:
        return []
    return [f"hydra.{'sweep' if swept else 'run'}.dir={quote_if_needed(folder)}"]


def of_target(command: str, target: str) -> list[str]:
    """Return the settings that choose a model. Raises `UserError`, which names the command, for an empty text."""
    if not target:
        raise UserError(
            f"{command}: TARGET is empty; expected a server's URL, a checkpoint's path, or a model's option"
        )
    if URL.match(target):
        url = target if urlsplit(target).path.strip("/") else f"{target.rstrip('/')}/v1"
        return ["backend=external", f"backend.url={quote_if_needed(url)}"]
    if ADDRESS.fullmatch(target) and not is_there(target):
        raise UserError(f"{command}: {target}: no such file or folder; a server's URL begins with http://{target}")
    if (Path(target) / str(RunFolder.journal)).is_file():
        raise UserError(
            f"{command}: {target}: the folder of a run, and no model; launcher compare RUN RUN compares runs, "
            f"and launcher resume={target} continues one"
        )
    if target in options_of("model"):
        return [f"model={target}"]
    return ["model=checkpoint", f"model.path={quote_if_needed(target)}"]
