"""``launcher check URL URL``: the certificates and load tests of several servers, on one page."""

from __future__ import annotations

import io
import string
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.cli.commands import Launch, contradictions
from launcher.cli.commands.target import URL, settings
from launcher.core import files
from launcher.core.console import printable, to_stderr
from launcher.core.errors import UserError, ValidationFailed
from launcher.core.run_folder import RunFolder
from launcher.settings.overrides import quote_if_needed

FOLDER = "hydra.run.dir="
SETTING = "load.test="


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the targets among the arguments, which are URLs or have no ``=`` in them, and the other arguments."""
    targets: list[str] = []
    rest: list[str] = []
    valued = False
    for word in arguments:
        is_target = not valued and (URL.match(word) is not None or not (word.startswith(("-", "~")) or "=" in word))
        (targets if is_target else rest).append(word)
        valued = word in ("--tasks", "--config-dir", "--out")
    return targets, rest


def check(targets: Sequence[str], rest: Sequence[str], launch: Launch) -> int:
    """Make what is missing of each target, compare them, and return the exit code. Raises `UserError`."""
    from launcher.verdict.servers import collect, page, terminal

    _check_targets(targets)
    root, rest = _root(rest)
    rest = [word for word in rest if not word.startswith((FOLDER, SETTING))]
    folders = [Path(target) if _is_run(target) else root / label for target, label in _labelled(targets)]
    asked = {folder: target for target, folder in zip(targets, folders, strict=True) if not _is_run(target)}
    for folder, target in asked.items():
        code = _validated(target, folder, rest, launch)
        if code not in (0, ValidationFailed.exit_code):
            return code
    _measure(list(asked))
    found = collect.collect(folders, beside=len(asked) == len(targets))
    console = Console()
    terminal.show(found, console)
    console.print(Text(f"page  {printable(str(page.write(found, root)))}"), soft_wrap=True)
    return ValidationFailed.exit_code if any(one["valid"] is False for one in found["servers"]) else 0


def _labelled(targets: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(targets, string.ascii_uppercase, strict=False))


def _is_run(target: str) -> bool:
    return RunFolder(Path(target)).results.exists()


def _check_targets(targets: Sequence[str]) -> None:
    """Raise `UserError` unless all are URLs and folders of runs, each given once."""
    for target in targets:
        if not (URL.match(target) or _is_run(target)):
            raise UserError(
                f"check: {target}: expected the URL of a running server, or the folder of a run, as several are given"
            )
    if repeated := [target for target in targets if targets.count(target) > 1]:
        raise UserError(f"check: {repeated[0]} is given twice")
    if len(targets) > len(string.ascii_uppercase):
        raise UserError(f"check: {len(targets)} targets given, expected at most {len(string.ascii_uppercase)}")


def _root(rest: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the folder of all, and the other arguments. Raises `UserError` for a plan."""
    asked = ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument("--out")
    out, others = asked.parse_known_args(list(rest))
    if {"--plan", "mode=plan"} & set(others):
        raise UserError("check: --plan: expected one target")
    contradictions.refuse("check", contradictions.of_out(out.out), others)
    contradictions.refuse("check", [("the comparison of several, which measures them", "load.test=true")], others)
    given = [word.removeprefix(FOLDER) for word in others if word.startswith(FOLDER)]
    folder = out.out or (given[-1].strip("'\"") if given else datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f"))
    return Path(folder), others


def _validated(target: str, folder: Path, rest: Sequence[str], launch: Launch) -> int:
    """Make the certificate of a server, in a folder of its own; its report is written, and not printed."""
    to_stderr(f"{folder.name}: {target}")
    line = settings("check", "validate", [target, *rest], tasks="")
    with redirect_stdout(io.StringIO()):
        return launch([*line, f"{FOLDER}{quote_if_needed(str(folder))}", f"{SETTING}false"])


def _measure(folders: Sequence[Path]) -> None:
    """Measure the servers with a valid certificate, side by side; write what was found into their folders."""
    from launcher.pipeline.loading import LEFT_OUT, measure_beside
    from launcher.report import results

    valid = [folder for folder in folders if results.read(folder)["status"] == "ok"]
    measure_beside(valid)
    for folder in folders:
        if folder not in valid:
            found = results.read(folder) | {"load_left_out": LEFT_OUT}
            files.replace_json(RunFolder(folder).results, found, indent=2)
