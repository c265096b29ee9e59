"""What is sent to a job, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.files import replace
from launcher.core.types import Json
from launcher.pipeline.config import Run
from launcher.settings.cluster import Slurm

FOLDER = "slurm"
"""In a run folder: what submitit and the job write."""

JOB = "job.json"
OUTCOME = "outcome.json"
CANCELLED = "cancelled"
REQUEUE = "requeue"


@dataclass(frozen=True)
class Point:
    """One composed run: what `launcher.pipeline.run.run` takes.

    It names secrets' variables and never holds their values.
    """

    run: Run
    config: Mapping[str, Json]
    overrides: list[str]
    folder: Path

    @property
    def slurm(self) -> Slurm:
        """What it is submitted with."""
        assert isinstance(self.run.cluster, Slurm)
        return self.run.cluster


@dataclass(frozen=True)
class Job:
    """One job and the run folders that it works for, in order."""

    id: str
    folders: list[Path]


def write(folder: Path, name: str, value: Json) -> None:
    """Write JSON into the job's part of a run folder, in one step."""
    path = folder / FOLDER / name
    replace(path, json.dumps(value) + "\n")


def read(folder: Path, name: str) -> Json:
    """Return what `write` left; None if there is nothing (yet)."""
    path = folder / FOLDER / name
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def job_of(folder: Path) -> tuple[str, Path]:
    """Return the id of the job that was submitted for a run folder, and the folder with its log.

    Raises `UserError` if there is none.
    """
    found = read(folder, JOB)
    if found is None:
        raise UserError(f"run={folder}: no job was submitted for this folder; there is no {folder / FOLDER / JOB}")
    return str(found["job_id"]), Path(found["log_folder"])


def submitted_in(folder: Path) -> list[Path]:
    """Return the run folder itself, or the points of a sweep folder, that a job was submitted for.

    Raises `UserError` if there is none.
    """
    found = [path.parent.parent for path in folder.rglob(f"{FOLDER}/{JOB}")]
    if not found:
        raise UserError(f"run={folder}: no job was submitted for this folder; there is no {folder / FOLDER / JOB}")
    return sorted(found, key=lambda path: [(len(part), part) for part in path.parts])


def outcome_of(folder: Path, job: str) -> int | None:
    """Return the exit code that a job left for a run folder; None while it left none."""
    found = read(folder, OUTCOME)
    return int(found["code"]) if found is not None and found["job_id"] == job else None
