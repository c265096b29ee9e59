"""What is sent to a job: composed runs and their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.core.types import Json
from launcher.pipeline.config import Run
from launcher.settings.cluster import Slurm


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
