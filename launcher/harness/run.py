"""Runs the command of one harness, and reads its result."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from launcher.core.console import to_stderr
from launcher.core.files import storing
from launcher.core.redaction import redact
from launcher.harness import process, stored
from launcher.harness.access import Access
from launcher.harness.log import last_line
from launcher.harness.stored import HarnessFolder, Outcome
from launcher.report.formatting import duration, task_name
from launcher.tasks.harness.base import Harness, Place, find_program, search_path
from launcher.tasks.harness.measured import Measured, ResultError, snapshot

PROGRESS_INTERVAL_S = 30.0
LOOPBACK = "127.0.0.1,localhost,::1"
NOT_ASKED = (
    "the endpoint answered no completion of the harness: its result is not one of this model, unless it is from a cache"
)
LOST_ALL = "; {:,} of its requests got an error or were given up, and the proxy's log beside its own names each"
LOST = (
    "{:,} of {:,} completions got an error, or the harness gave them up: a harness that does not ask again scores them "
    "as wrong answers"
)


@dataclass(frozen=True)
class Session:
    """One session of a run: its folder, why a harness must end now, and the variables that hold the run's secrets.

    ``gone`` may raise, which ends the harness too.
    """

    folder: Path
    gone: Callable[[], str | None]
    secrets: Container[str]


def run(name: str, task: Harness, place: Place, access: Access, session: Session) -> Outcome:
    """Run the command of a harness, read its result, and keep the outcome. Raises what `Session.gone` raises."""
    files = stored.folder(session.folder, name)
    place = replace(place, output=files.output.resolve())
    with storing(files.output):
        place.output.mkdir(parents=True, exist_ok=True)
    words = task.words(place)
    to_stderr(f"harness: {task_name(name)}: {redact(shlex.join(words))}")
    before = snapshot(task.pattern(place))
    words[0] = find_program(words[0]) or words[0]
    environment = _environment(task.environment_of(place, access.key), session.secrets)
    ended = process.run(words, environment, files.log, task.stop_timeout_s, _stop(name, task, files, access, session))
    measured, fault = _result(task, place, before, ended, files)
    earlier = stored.read(session.folder, name)
    asked = _Asked.of(access, earlier)
    outcome = _outcome(task, words, ended, asked, measured, fault)
    stored.write(session.folder, name, outcome)
    _say(name, outcome)
    return outcome


def _environment(own: Mapping[str, str], secrets: Container[str]) -> dict[str, str]:
    """Return the launcher's environment without the run's secrets, and with what the harness gets."""
    inherited = {name: value for name, value in os.environ.items() if name not in secrets}
    proxies = {name: ",".join(filter(None, (inherited.get(name), LOOPBACK))) for name in ("NO_PROXY", "no_proxy")}
    return {**inherited, **proxies, "PATH": search_path(), "PYTHONUNBUFFERED": "1", **own}


def _stop(
    name: str, task: Harness, files: HarnessFolder, access: Access, session: Session
) -> Callable[[float], str | None]:
    reported = 0.0

    def stop(seconds: float) -> str | None:
        nonlocal reported
        if seconds - reported > PROGRESS_INTERVAL_S:
            reported = seconds
            to_stderr(f"harness: {task_name(name)}: {duration(seconds)}: {last_line(files.log)}")
        if seconds > task.timeout_s:
            return f"it ran for longer than timeout_s={task.timeout_s:g}"
        return access.gone() or session.gone()

    return stop


def _result(
    task: Harness, place: Place, before: Mapping[Path, tuple[int, int, int]], ended: process.Ended, files: HarnessFolder
) -> tuple[Measured | None, str | None]:
    """Return what the harness measured, or why there is nothing."""
    if ended.fault is not None:
        return None, f"{ended.fault}; see {files.log}"
    try:
        return task.read(place, before), None
    except ResultError as error:
        return None, f"{error}; see {files.log}"


class _Asked(NamedTuple):
    """How many completions were answered, and how many were not."""

    answered: int
    lost: int

    @classmethod
    def of(cls, access: Access, earlier: Outcome | None) -> _Asked:
        """Return the counts of this session, added to those of an earlier one."""
        answered, lost = access.answered(), access.lost()
        return cls(answered, lost) if earlier is None else cls(answered + earlier.requests, lost + earlier.lost)


def _outcome(
    task: Harness, words: list[str], ended: process.Ended, asked: _Asked, measured: Measured | None, fault: str | None
) -> Outcome:
    notes = tuple(_notes(task, asked, measured)) if measured is not None else ()
    said = None if fault is None else redact(fault)
    return Outcome(tuple(words), ended.code, ended.seconds, asked.answered, measured, said, notes, asked.lost)


def _notes(task: Harness, asked: _Asked, measured: Measured) -> Iterator[str]:
    if asked.answered == 0:
        yield NOT_ASKED + (LOST_ALL.format(asked.lost) if asked.lost else "")
    elif asked.lost:
        yield LOST.format(asked.lost, asked.answered + asked.lost)
    for name in task.lower_is_better:
        if not any(found == name or found.endswith(f"/{name}") for found in measured.metrics):
            yield f"lower_is_better: {name}: the result has no such metric"


def _say(name: str, outcome: Outcome) -> None:
    said = outcome.fault or f"{outcome.requests:,} completions, {duration(outcome.seconds)}"
    to_stderr(f"harness: {task_name(name)}: {said}")
    for note in outcome.notes:
        to_stderr(f"harness: {task_name(name)}: WARNING: {note}")
