"""The run that an export reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.files import read_json
from launcher.core.kinds import Kind, kind_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record
from launcher.export import rows
from launcher.report import results, sweep_table
from launcher.report.schema import ResultsFile


@dataclass(frozen=True)
class Source:
    """A run folder with results, and its name among the runs that are exported together."""

    folder: Path
    name: str

    @cached_property
    def results(self) -> ResultsFile:
        """``results.json``. Raises `UserError`."""
        return results.read(self.folder)

    @property
    def model(self) -> str:
        """The name of the model that was served."""
        endpoint = self.results["endpoint"]
        return endpoint["model"] if endpoint else "unknown model"

    @property
    def url(self) -> str | None:
        """The address of the server."""
        endpoint = self.results["endpoint"]
        return endpoint["url"] if endpoint else None

    @property
    def ended(self) -> datetime:
        """When the results were written."""
        return datetime.fromtimestamp(RunFolder(self.folder).results.stat().st_mtime, UTC)

    @property
    def seconds(self) -> float:
        """How long the run took, as far as it is known."""
        return float(self.results["timings"].get("total") or 0.0)

    @property
    def config(self) -> Mapping[str, Json]:
        """The resolved configuration."""
        found = self.results["run"].get("config")
        return found if isinstance(found, Mapping) else {}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the packages that had a part."""
        found = self.results["run"].get("versions")
        return {str(name): str(version) for name, version in found.items()} if isinstance(found, Mapping) else {}

    @property
    def certificate(self) -> Json:
        """``certificate.json``; None if the endpoint was not validated."""
        return read_json(RunFolder(self.folder).certificate)

    def records(self) -> Iterator[Record]:
        """Yield the record of each sample. Raises `ResumeError` for a damaged line."""
        return RunFolder(self.folder).records()

    def scores(self) -> list[dict[str, Json]]:
        """Return a row for each metric, which says of what run it is."""
        about = {"run": self.name, "model": self.model, "status": self.results["status"]}
        return [{**about, **row} for row in rows.score_rows(self.results)]


SCORE_COLUMNS = ("run", "model", "status", *rows.SCORE_COLUMNS)


def sources(folder: Path) -> tuple[list[Source], list[str]]:
    """Return the run of a folder, or the points of a sweep, and a line for each point that has no results.

    Raises `UserError` for another folder, and for a sweep without any results.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected that of a finished run, or of a sweep")
    if RunFolder(folder).results.exists():
        results.read(folder)
        return [Source(folder, folder.resolve().name)], []
    if kind_of(folder) is Kind.run:
        raise UserError(f"{folder}: no {RunFolder.results} in it so far: the run has not ended")
    if not any(folder.rglob(str(RunFolder.overrides))):
        raise UserError(f"{folder}: no {RunFolder.results} in it; expected the folder of a finished run, or of a sweep")
    points = sweep_table.points_of(folder)
    missing = [f"{point['folder']}: {point['reason']}" for point in points if point["status"] == "missing"]
    found = [Source(folder / point["folder"], point["folder"]) for point in points if point["status"] != "missing"]
    if not found:
        raise UserError(f"{folder}: no run in it has ended: {'; '.join(missing)}")
    return found, missing
