"""The runs of a sweep, or of a watched training run, as a Python object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.core.files import read_json
from launcher.core.run_folder import RunFolder
from launcher.export import rows
from launcher.python import tables
from launcher.python.comparison import Comparison
from launcher.python.errors import one_error
from launcher.python.process import export
from launcher.python.run import Run
from launcher.report import formatting, results, sweep_table


@dataclass(frozen=True, repr=False)
class Sweep:
    """Several runs of one folder: of a sweep, a watch, a race, or a check of several servers."""

    folder: Path

    @cached_property
    def data(self) -> Any:
        """All of ``sweep.json`` or ``watch.json``. A sweep that has not ended is read from its points."""
        file = RunFolder(self.folder)
        with one_error():
            path = file.watch if file.watch.exists() else file.sweep
            return read_json(path) if path.exists() else sweep_table.collect(self.folder)

    @property
    def runs(self) -> dict[str, Run]:
        """The runs by the name of their folder, also those that did not end ok."""
        return {point["folder"]: Run(self.folder / point["folder"]) for point in self.data["points"]}

    @property
    def scores(self) -> Any:
        """A row for each point and metric, with the settings that differ.

        A point without scores has a row too. A pandas DataFrame where pandas is installed, else a list of dicts.
        """
        found = [
            {"point": name, "settings": settings, "ended": point["status"], **row}
            for point in self.data["points"]
            for name, settings in [(point["folder"], " ".join(point.get("overrides", ())))]
            for row in [*rows.score_rows(point)] or [{}]
        ]
        return tables.table(found, ("point", "settings", "ended", *rows.SCORE_COLUMNS))

    @property
    def kind(self) -> str:
        """``sweep``, ``watch``, ``race`` or ``check``."""
        file = RunFolder(self.folder)
        others = {"watch": file.watch, "race": file.race, "check": file.servers}
        return next((kind for kind, path in others.items() if path.exists()), "sweep")

    @property
    def page(self) -> Path:
        """The path of the page about all of them."""
        file = RunFolder(self.folder)
        pages = {"watch": file.watch_page, "race": file.comparison_page, "check": file.servers_page}
        return pages.get(self.kind, file.sweep_page)

    def compare(self, *, force: bool = True) -> Comparison:
        """Say what each run is against the first one; their settings differ, so that ``force`` is set."""
        found = [run.folder for run in self.runs.values() if _has_samples(run)]
        return Comparison.of(found or [self.folder], force=force)

    def export(self, *formats: str, out: str | Path | None = None) -> Path:
        """Write the results of every point for other programs; return the folder. Raises `LauncherError`."""
        return export(self.folder, formats, out)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs.values())

    def __len__(self) -> int:
        return len(self.data["points"])

    def __repr__(self) -> str:
        return tables.as_text(self._title(), self._table())

    def _repr_html_(self) -> str:
        head = ("point", "settings", "ended", "scores")
        return tables.as_html(self._title(), head, self._table(), [f"page: {self.page}"])

    def _title(self) -> str:
        return f"{self.kind.capitalize()} in {self.folder}"

    def _table(self) -> list[tuple[str, str, str, str]]:
        points = self.data["points"]
        common = set.intersection(*(set(point.get("overrides", ())) for point in points)) if points else set()
        return [
            (
                point["folder"],
                " ".join(word for word in point.get("overrides", ()) if len(points) == 1 or word not in common),
                point["status"],
                _scores(point),
            )
            for point in points
        ]


def _scores(point: Any) -> str:
    return ", ".join(
        f"{formatting.task_name(task)} {metric} {formatting.number(entry['value'])}"
        f" ({found['coverage'].get('scored', 0)}/{found['coverage'].get('total')})"
        for task, found in results.folded(point).items()
        for metric, entry in found["metrics"].items()
    )


def _has_samples(run: Run) -> bool:
    return RunFolder(run.folder).samples.exists() and RunFolder(run.folder).journal.exists()
