"""What each page shows: a run, a sweep, a watch, the index, or a comparison."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from launcher.core.errors import UserError
from launcher.core.kinds import Kind
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.report import page, sweep_table
from launcher.report import watch as watches
from launcher.view import index, pages
from launcher.view.folders import Place, Roots, points, standing
from launcher.view.run_state import RunReader

SHOWN_POINTS = 500
FILES = {str(file) for file in (RunFolder.report, RunFolder.sweep_page, RunFolder.watch_page)}
"""The pages of a folder that are shown as they are."""


class Content:
    """Makes the parts of pages from the folders, which are read again each time."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self._readers: dict[Path, RunReader] = {}

    def heading(self, place: Place) -> str:
        return place.name or place.path.name

    def parts(self, place: Place) -> dict[str, str]:
        """Return the parts of the page of a folder, by their ids."""
        try:
            return {Kind.run: self._run, Kind.sweep: self._sweep, Kind.watch: self._watch}[place.kind](place.path)
        except Exception as error:  # a file of another program, or a damaged one
            told = _message(
                place.kind.value, "A file of this folder cannot be read", f"{type(error).__name__}: {error}"
            )
            return {"head": pages.fragment("message.html.j2", told)}

    def _run(self, path: Path) -> dict[str, str]:
        if path not in self._readers:
            self._readers = {**self._readers, path: RunReader(path, self.roots.files)}
        return pages.run_parts(self._readers[path].read())

    def _sweep(self, path: Path) -> dict[str, str]:
        stage = self.roots.files.mapping(RunFolder(path).stage)
        rows = [_point_row(self.roots, path, name) for name in points(path)[:SHOWN_POINTS]]
        values = {"name": path.name, "rows": rows, "stage": stage, "pages": _pages(path, RunFolder.sweep_page)}
        return {"head": pages.fragment("sweep_head.html.j2", values), "points": self._grid(path, rows)}

    def _grid(self, path: Path, rows: Sequence[Mapping[str, Json]]) -> str:
        """Return the points with their scores, without the comparisons, which the page of the sweep has."""
        try:
            found = sweep_table.points_of(path)[:SHOWN_POINTS]
        except UserError:
            return ""
        states = {row["name"]: row for row in rows}
        table = sweep_table.table({"schema_version": 1, "points": found, "deployments": [], "comparisons": []})
        return pages.fragment("sweep_grid.html.j2", {"table": table, "states": states})

    def _watch(self, path: Path) -> dict[str, str]:
        found = self.roots.files.mapping(RunFolder(path).watch)
        running = [row for name in points(path) if (row := _point_row(self.roots, path, name))["status"] == "running"]
        main = page.render_main("watch.html.j2", watches.values(found, path, over=not running))  # type: ignore[arg-type]
        return {"now": pages.fragment("watch_now.html.j2", {"rows": running}), "curves": main}

    def index(self, asked: index.Asked) -> dict[str, str]:
        """Return the parts of the index."""
        every = index.rows(self.roots)
        rows, total = index.chosen(every, asked)
        folders = ", ".join(map(str, self.roots.folders))
        values = {
            "asked": asked,
            "orders": list(index.ORDERS),
            "folders": folders,
            "rows": rows,
            "total": total,
            "any": bool(every),
            "pages": -(-total // index.PAGE),
            "when": _when,
        }
        parts = {"form": "index_form.html.j2", "rows": "index_rows.html.j2", "turn": "index_turn.html.j2"}
        return {name: pages.fragment(template, values) for name, template in parts.items()}

    def comparison(self, chosen: Sequence[str]) -> dict[str, str]:
        """Return the verdict on runs, or why there is none."""
        from launcher.verdict import collect, runs

        places = [place for address in chosen if (place := self.roots.place(address.strip("/"))) is not None]
        try:
            found = collect.collect(runs.read_all([place.path for place in places]))
            return {"found": page.render_main("comparison.html.j2", {"found": found})}
        except UserError as error:
            told = _message("Comparison", "There is no verdict", str(error))
            return {"found": pages.fragment("message.html.j2", told)}


def _point_row(roots: Roots, path: Path, name: str) -> dict[str, Json]:
    folder = RunFolder(path / name)
    stage = roots.files.mapping(folder.stage)
    where = standing(stage, roots.files.mapping(folder.results), folder)
    done, total = stage.get("done"), stage.get("total")
    share = min(1.0, done / total) if done is not None and total else None
    return {
        "name": name,
        "address": f"{quote(name)}/",
        "status": where.status,
        "step": stage.get("step"),
        "share": share,
    }


def _pages(path: Path, file: Path) -> list[str]:
    return [str(file)] if (path / file).exists() else []


def _message(eyebrow: str, heading: str, message: str) -> dict[str, str]:
    return {"eyebrow": eyebrow, "heading": heading, "message": message}


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
