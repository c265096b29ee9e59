"""The functions of ``import launcher``: start runs, sweeps and servers, and load what they left."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from launcher.core.errors import UserError
from launcher.core.kinds import Kind, kind_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import expanded
from launcher.python.arguments import check_mode, words
from launcher.python.comparison import Comparison
from launcher.python.endpoint import Endpoint
from launcher.python.errors import LauncherError, one_error
from launcher.python.process import Child
from launcher.python.run import Run
from launcher.python.sweep import Sweep


def run(*overrides: str, check: bool = True, quiet: bool = False, **settings: Any) -> Run:
    """Serve, validate, evaluate and report, as the command line does with the same settings; return the run.

    ``overrides`` are words of the command line, such as ``"tasks=[arc_easy]"``; ``settings`` are Python values, such as
    ``evaluate={"limit": 10}``, ``evaluate__limit=10`` or ``tasks=["arc_easy"]``. ``model`` may be a checkpoint's path,
    a server's URL or the name of an option. The run is a process of its own, which an interrupt ends in order.

    Raises `LauncherError` for what the command line refuses, and for a run that does not end ok. With ``check=False``,
    such a run is returned if it left a report. ``quiet`` shows no progress.
    """
    with one_error():
        arguments = words(overrides, settings)
        check_mode(arguments, "run")
    child = Child(arguments, quiet=quiet)
    code = _code(child)
    if child.folder is None:
        raise LauncherError(child.reason, code or 1)
    found = Run(child.folder)
    if code and (check or not RunFolder(found.folder).results.exists()):
        raise LauncherError(child.reason, code, found if RunFolder(found.folder).results.exists() else None)
    child.show_errors()
    return found


def sweep(*overrides: str, check: bool = True, quiet: bool = False, **settings: Any) -> Sweep:
    """Run once for each combination of the values that commas separate, such as ``"evaluate.temperature=0,0.7"``.

    Points that need the same server share it. ``settings`` are the same in every point. Raises `LauncherError` as
    `run` does, with ``check=False`` only where no point was begun.
    """
    with one_error():
        arguments = words(overrides, settings)
        check_mode(arguments, "sweep")
    child = Child(["--multirun", *arguments], quiet=quiet)
    code = _code(child)
    if child.folder is None or (code and check):
        raise LauncherError(child.reason, code or 1)
    child.show_errors()
    return Sweep(child.folder)


def plan(*overrides: str, **settings: Any) -> str:
    """Return what a run with these settings would do, as ``mode=plan`` prints it; nothing is started.

    Raises `LauncherError` for what cannot run.
    """
    with one_error():
        arguments = words(overrides, settings)
        check_mode(arguments, "plan")
    child = Child([*arguments, "mode=plan"], quiet=True)
    if code := _code(child):
        raise LauncherError(child.reason, code)
    return child.output


def serve(*overrides: str, quiet: bool = False, **settings: Any) -> Endpoint:
    """Serve a model and validate its endpoint; return it once its certificate is valid.

    Use it as a context manager, or call `close`. The settings are those of `run`. Raises `LauncherError` if the server
    does not start, or fails its certificate.
    """
    with one_error():
        arguments = words(overrides, settings)
        check_mode(arguments, "serve")
    return Endpoint(Child([*arguments, "mode=serve"], quiet=quiet))


def load(folder: str | PathLike[str]) -> Run | Sweep:
    """Return the run in a folder, or the runs of that of a sweep, a watch, a race or a check of several servers.

    Raises `LauncherError` for another folder.
    """
    path = expanded(folder)
    file = RunFolder(path)
    with one_error():
        if kind_of(path) in (Kind.sweep, Kind.watch) or file.race.exists() or file.servers.exists():
            return Sweep(path)
        if not file.results.exists():
            raise UserError(_not_finished(path))
    found = Run(path)
    _ = found.results
    return found


def _not_finished(path: Path) -> str:
    if not path.is_dir():
        return f"{path}: no such folder"
    if RunFolder(path).hydra.is_dir() or RunFolder(path).job.exists():
        return f"{path}: the run has no {RunFolder.results} so far; launcher status {path} shows a job"
    return f"{path}: no {RunFolder.results} in it; expected the folder of a run, a sweep, a watch, a race or a check"


def compare(*runs: Run | Sweep | str | PathLike[str], force: bool = False) -> Comparison:
    """Say what each of the runs is against the first one, paired on the questions that both scored.

    A run may be given by its folder; the folder of a sweep stands for its points. Raises `LauncherError` for runs that
    did not measure the same; with ``force``, that becomes a warning.
    """
    with one_error():
        folders = [each.folder if isinstance(each, Run | Sweep) else expanded(each) for each in runs]
    return Comparison.of(folders, force=force)


def _code(child: Child) -> int:
    """Return the exit code. Raises `KeyboardInterrupt`, once all has ended, where the user interrupted us."""
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.show_errors()
        raise
