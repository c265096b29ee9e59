"""A finished run as a Python object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.core.files import read_json
from launcher.core.records import to_json
from launcher.core.run_folder import RunFolder
from launcher.export import rows
from launcher.python import tables
from launcher.python.comparison import Comparison
from launcher.python.errors import one_error
from launcher.python.process import export
from launcher.report import formatting, results
from launcher.report.schema import ResultsFile


@dataclass(frozen=True, repr=False)
class Run:
    """A run and its results, read from its folder when they are asked for."""

    folder: Path

    @cached_property
    def results(self) -> ResultsFile:
        """All of ``results.json``. Raises `LauncherError` where it is missing: the run has not ended so far."""
        with one_error():
            return results.read(self.folder)

    @property
    def status(self) -> str:
        """``ok``, ``incomplete``, ``invalid``, ``interrupted`` or ``error``."""
        return self.results["status"]

    @property
    def ok(self) -> bool:
        """Whether every step succeeded."""
        return self.status == "ok"

    @property
    def reason(self) -> str | None:
        """Why the run did not end ok."""
        return self.results["reason"]

    @property
    def model(self) -> str | None:
        """The name of the model that was served; None where no server became ready."""
        endpoint = self.results["endpoint"]
        return endpoint["model"] if endpoint else None

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """The value of every metric by group or task, for instance ``run.scores["arc_easy"]["acc"]``.

        A task of which nothing was scored has no metric. ``metrics`` has the errors and the coverage as well.
        """
        every = {**self.results["groups"], **self.results["tasks"]}
        return {name: {key: one["value"] for key, one in task["metrics"].items()} for name, task in every.items()}

    @property
    def metrics(self) -> Any:
        """A row for each metric with its standard error, 95 % interval and coverage.

        A pandas DataFrame where pandas is installed, else a list of dicts.
        """
        return tables.table(rows.score_rows(self.results), rows.SCORE_COLUMNS)

    @property
    def samples(self) -> Any:
        """A row for each sample, also for those without a score; scores are columns such as ``score.acc``.

        A pandas DataFrame where pandas is installed, else a list of dicts.
        """
        with one_error():
            found = list(rows.sample_rows(self.folder))
        return tables.table(found, rows.columns_of(found))

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every sample as ``samples.jsonl`` has it, with its whole requests and responses."""
        with one_error():
            return [to_json(record) for record in RunFolder(self.folder).records()]

    @property
    def certificate(self) -> Any:
        """All of ``certificate.json``; None where the endpoint was not validated."""
        with one_error():
            return read_json(RunFolder(self.folder).certificate)

    @property
    def report(self) -> Path:
        """The path of ``report.html``."""
        return RunFolder(self.folder).report

    def compare(self, *others: Run | str | Path, force: bool = False) -> Comparison:
        """Say what each of the others is against this run, paired on the questions that both scored.

        Raises `LauncherError` for runs that did not measure the same; with ``force``, that becomes a warning.
        """
        folders = [each.folder if isinstance(each, Run) else Path(each) for each in others]
        return Comparison.of([self.folder, *folders], force=force)

    def export(self, *formats: str, out: str | Path | None = None) -> Path:
        """Write the results for other programs, for instance ``run.export("csv", "lm-eval")``; return the folder.

        Raises `LauncherError`.
        """
        return export(self.folder, formats, out)

    def __repr__(self) -> str:
        return tables.as_text(self._title(), self._table())

    def _repr_html_(self) -> str:
        head = ("task", "metric", "value ± standard error", "95 % confidence", "scored")
        return tables.as_html(self._title(), head, self._table(), [f"report: {self.report}"])

    def _title(self) -> str:
        if not RunFolder(self.folder).results.exists():
            return f"Run in {self.folder}: no {RunFolder.results} so far"
        why = f": {self.reason}" if self.reason else ""
        return f"Run of {self.model or 'no model'} in {self.folder}: {self.status}{why}"

    def _table(self) -> list[tuple[str, str, str, str, str]]:
        if not RunFolder(self.folder).results.exists():
            return []
        folded = results.folded({**self.results})
        return [_line(row) for row in rows.score_rows(self.results) if row["task"] in folded]


def _line(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Return a metric's name, value, interval and coverage as texts."""
    value = "-" if row["value"] is None else formatting.number(row["value"])
    spread = "" if row["stderr"] is None else f" ± {formatting.number(row['stderr'])}"
    ends = [row["ci_low"], row["ci_high"]]
    interval = "-" if None in ends else formatting.interval(*ends)
    name, metric = formatting.task_name(row["task"]), row["metric"] or "-"
    return name, metric, value + spread, interval, f"{row['scored']}/{row['total']}"
