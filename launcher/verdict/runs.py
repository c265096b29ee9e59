"""The finished runs that a verdict is about, and whether they measured the same."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.kinds import Kind, kind_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.evaluate import journal
from launcher.report import results, sweep_table
from launcher.report.compare import Answers
from launcher.report.formatting import plural
from launcher.report.schema import ResultsFile
from launcher.stats.metric import ROUNDING
from launcher.stats.paired import mean

SUBJECT = frozenset({"checkpoint", "model", "engine", "backend", "dtype"})
"""The parts of a fingerprint that say what was measured; all others say how."""
ANSWERS = frozenset({"answers_from"})
"""The part of a fingerprint that says whose answers were scored again: they are what is compared, as those of a run."""
NO_TASK = "no task was evaluated; launcher check RUN RUN compares the certificates and the speed of servers"
MOST = len(string.ascii_uppercase)


@dataclass(frozen=True)
class Run:
    """A run folder with its results, what its samples were asked with, and their scores. ``label`` is one letter."""

    label: str
    folder: Path
    results: ResultsFile
    fingerprint: dict[str, Json]
    answers: Answers
    populations: Mapping[str, Json] = field(default_factory=dict)
    """What was drawn at random, where a run may have stopped early: see `launcher.evaluate.early_stop.facts`."""

    @property
    def model(self) -> str:
        """The name of the model that was evaluated."""
        endpoint = self.results["endpoint"]
        return endpoint["model"] if endpoint else "unknown model"

    @property
    def source(self) -> str:
        """The checkpoint's path, or the server's URL; empty where neither is known."""
        config = self.results["run"].get("config") or {}
        path = (config.get("model") or {}).get("path")
        endpoint = self.results["endpoint"] if (config.get("backend") or {}).get("url") else None
        return str(path or (endpoint["url"] if endpoint else ""))

    @property
    def repeats(self) -> int:
        """How often each question was asked."""
        return int((self.fingerprint.get("evaluate") or {}).get("repeats") or 1)

    @property
    def tasks(self) -> dict[str, Json]:
        """The settings of each task, by its key."""
        return dict(self.fingerprint.get("tasks") or {})


def read_all(folders: Sequence[Path]) -> list[Run]:
    """Read two or more runs; a folder of a sweep stands for its points. Raises `UserError`, which names the folder."""
    paths = [path for folder in folders for path in _points(folder)]
    if len(paths) < 2:
        given = plural(len(paths), "run")
        raise UserError(f"compare: {given} given, expected two or more run folders, or a sweep's folder")
    if len(paths) > MOST:
        raise UserError(f"compare: {len(paths)} runs given, expected at most {MOST}")
    repeated = [path for path in paths if [other.resolve() for other in paths].count(path.resolve()) > 1]
    if repeated:
        raise UserError(f"compare: {repeated[0]} is given twice")
    return [read(path, label) for path, label in zip(paths, string.ascii_uppercase, strict=False)]


def left_out(folders: Sequence[Path]) -> list[str]:
    """Return a line for each point of a sweep that `read_all` leaves out, as it has no scores."""
    sweeps = [folder for folder in folders if not _is_run(folder)]
    points = [(folder, point) for folder in sweeps for point in sweep_table.points_of(folder)]
    return [
        f"{folder / point['folder']} is left out: it has no scores (status {point['status']})"
        for folder, point in points
        if not point["tasks"]
    ]


def read(folder: Path, label: str) -> Run:
    """Read one run. Raises `UserError` if it has no results or no samples."""
    if not _is_run(folder):
        raise _no_run(folder, "the folder of a finished run")
    if not RunFolder(folder).results.exists():
        raise _unfinished(folder)
    found = results.read(folder)
    header = journal.header(folder)
    if found["tasks"] and not RunFolder(folder).samples.exists():
        raise UserError(f"{folder}: there is no {RunFolder.samples} in it, whose scores would be compared")
    if not found["tasks"] and found["status"] in ("ok", "invalid"):
        raise UserError(f"{folder}: {NO_TASK}")
    samples = RunFolder(folder).samples
    if header is None and samples.exists() and samples.stat().st_size:
        raise UserError(f"{folder}: there is no {RunFolder.journal} in it, which says what the run asked")
    if header is None or not RunFolder(folder).samples.exists():
        raise UserError(f"{folder}: the run ended before it asked a question (status {found['status']})")
    answers = Answers.read(folder, found["tasks"])
    _check_agreement(folder, found, answers)
    return Run(label, folder, found, dict(header["fingerprint"]), answers, _populations(header.get("early_stop")))


def _populations(early: Json) -> dict[str, Json]:
    """Return the populations that were drawn at random; empty for a run that asked all without a race."""
    found: Mapping[str, Json] = (early or {}).get("populations") or {}
    raced = bool(found) and early["until"] == "race"
    return {name: each for name, each in found.items() if raced or each["asked"] < each["total"]}


def _check_agreement(folder: Path, found: ResultsFile, answers: Answers) -> None:
    """Raise `UserError` if the stored scores do not give the results: one of the files was changed."""
    for task, metric, stored in _stored(answers):
        told = found["tasks"][task]["metrics"][metric]["value"]
        if told is None or not math.isclose(stored, told, rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise UserError(
                f"{folder}: {RunFolder.samples} and {RunFolder.results} do not agree: {task} {metric} is {stored:g} in "
                f"the samples, {told} in the results; resume={folder} writes the results again"
            )


def _stored(answers: Answers) -> Iterator[tuple[str, str, float]]:
    """Yield the number that the stored scores give in each task and metric, as far as it takes little to compute."""
    for (task, metric), values in answers.values.items():
        yield task, metric, mean([value for each in values.values() for value in each])
    for (task, metric), parts in answers.parts.items():
        statistic = answers.statistics[task, metric]
        if statistic.sums is not None:
            yield task, metric, float(statistic([value for each in parts.values() for value in each]) or 0.0)


def _points(folder: Path) -> list[Path]:
    """Return the folder itself if it is a run's, else the points of a sweep, in natural order."""
    if folder.is_dir() and _is_run(folder):
        return [folder]
    if kind_of(folder) is Kind.run:
        raise _unfinished(folder)
    if any(folder.rglob(str(RunFolder.overrides))):
        found = [folder / point["folder"] for point in sweep_table.points_of(folder) if point["tasks"]]
        if not found:
            raise UserError(f"{folder}: {NO_TASK}")
        return found
    raise _no_run(folder, "the folder of a finished run, or of a sweep")


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder)
    return run.results.exists() or run.journal.exists()


def _unfinished(folder: Path) -> UserError:
    return UserError(
        f"{folder}: no {RunFolder.results} in it so far: the run has not ended; "
        f"resume={folder} continues one that was killed"
    )


def _no_run(folder: Path, expected: str) -> UserError:
    """Return what to say of a folder that is none of a run, with a run in it as an example."""
    if folder.exists() and not folder.is_dir():
        return UserError(f"{folder}: it is a file; expected {expected}")
    if not folder.is_dir():
        return UserError(f"{folder}: no such folder; expected {expected}")
    inside = min(folder.glob(f"*/{RunFolder.results}"), default=None)
    example = f", such as {inside.parent}" if inside else ""
    return UserError(f"{folder}: no {RunFolder.results} in it; expected {expected}{example}")


def common_tasks(a: Run, b: Run) -> list[str]:
    """Return the tasks that both runs have, in the order of the first."""
    return [task for task in a.tasks if task in b.tasks]


def measured_otherwise(a: Run, b: Run) -> list[str]:
    """Return a line ``key: value of a -> value of b`` for each thing by which their scores cannot be compared.

    These are the items, prompts and metrics of the tasks that both have, sampling, adapters, the judge, and the
    versions of what computes a score.
    """
    shared = common_tasks(a, b)
    lines = journal.difference(_method(a, shared), _method(b, shared))
    return [*lines, *journal.difference(_versions(a, shared), _versions(b, shared), "versions")]


def subject(a: Run, b: Run) -> list[str]:
    """Return the lines in which the measured models differ."""
    left, right = ({key: run.fingerprint.get(key) for key in sorted(SUBJECT)} for run in (a, b))
    return journal.difference(left, right)


def _method(run: Run, tasks: Sequence[str]) -> dict[str, Json]:
    how = {key: value for key, value in run.fingerprint.items() if key not in SUBJECT | ANSWERS}
    return {**how, "tasks": {task: _asked(run.tasks[task]) for task in tasks}}


def _asked(task: Json) -> Json:
    """Return what decides the answers and scores of a task; the names of its categories do not."""
    settings = task.get("settings") or {}
    return {**task, "settings": {key: value for key, value in settings.items() if key != "category"}}


def _versions(run: Run, tasks: Sequence[str]) -> dict[str, Json]:
    versions = run.results["run"].get("versions") or {}
    names = ["launcher", *(["lm-eval"] if any(task.startswith("lm_eval_") for task in tasks) else [])]
    return {name: versions.get(name) for name in names}
