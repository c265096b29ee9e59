"""The comparison of finished runs as a Python object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.python import tables
from launcher.python.errors import one_error
from launcher.report import formatting
from launcher.verdict import collect, page, runs
from launcher.verdict.schema import ComparisonFile, RowEntry

COLUMNS = tuple(RowEntry.__annotations__)


@dataclass(frozen=True, repr=False)
class Comparison:
    """What each of several runs is against the first of them; ``data`` is ``comparison.json``."""

    data: ComparisonFile

    @classmethod
    def of(cls, folders: Sequence[Path], *, force: bool = False) -> Comparison:
        """Compare runs; the folder of a sweep stands for its points. Raises `LauncherError`."""
        with one_error():
            return cls(collect.collect(runs.read_all(folders), force=force, left_out=runs.left_out(folders)))

    @property
    def rows(self) -> Any:
        """A row for each metric, with the verdict.

        A pandas DataFrame where pandas is installed, else a list of dicts.
        """
        return tables.table(self.data["rows"], COLUMNS)

    @property
    def categories(self) -> Any:
        """A row for each category of a task, in its first metric: exploratory, corrected within the task."""
        return tables.table(self.data["categories"], ("category", *COLUMNS))

    @property
    def sentences(self) -> list[str]:
        """The verdict of each metric in words."""
        return [f"{formatting.task_name(row['task'])} {row['metric']}: {row['sentence']}" for row in self.data["rows"]]

    @property
    def flips(self) -> list[dict[str, Any]]:
        """The questions that changed, with both answers, the largest changes first."""
        return [{"a": each["a"], "b": each["b"], **flip} for each in self.data["flips"] for flip in each["shown"]]

    @property
    def warnings(self) -> list[str]:
        """What speaks against trusting the comparison."""
        return self.data["warnings"]

    def write(self, folder: str | Path) -> Path:
        """Write ``comparison.html`` and ``comparison.json`` into a folder; return the path of the page."""
        with one_error():
            return page.write(self.data, Path(folder))

    def __repr__(self) -> str:
        return tables.as_text(self._title(), [*([line] for line in self.sentences), *([w] for w in self.warnings)])

    def _repr_html_(self) -> str:
        head = ("task", "metric", "before", "after", "verdict")
        table = [
            (
                formatting.task_name(row["task"]),
                row["metric"],
                f"{row['a']} {formatting.number(row['value_a'])}",
                f"{row['b']} {formatting.number(row['value_b'])}",
                row["sentence"],
            )
            for row in self.data["rows"]
        ]
        return tables.as_html(self._title(), head, table, self.warnings)

    def _title(self) -> str:
        return ", ".join(f"{run['label']} = {run['model']} in {run['folder']}" for run in self.data["runs"])
