"""The index: every run, sweep and watch below some folders, filtered and sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from launcher.core.kinds import Kind
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.report import formatting, results
from launcher.view.folders import Place, Roots, points, standing
from launcher.view.run_state import title

PAGE = 100
FAULTLESS = ("ok", "missed", "evaluating")
"""The statuses of points that say nothing against a sweep or a watch."""
SCORES = 4
"""At most this many scores of a run are listed."""


@dataclass(frozen=True)
class Row:
    """A line of the index. ``scores`` has the first metric of each task, ``address`` the path of its page."""

    address: str
    name: str
    kind: str
    status: str
    title: str
    scores: tuple[tuple[str, str, float | None], ...]
    more: int
    began: float
    seconds: float | None

    @property
    def is_comparable(self) -> bool:
        return self.kind == Kind.run.value and bool(self.scores)


@dataclass(frozen=True)
class Asked:
    """What the form of the index asks for."""

    words: str = ""
    status: str = ""
    order: str = "newest"
    page: int = 0

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        page = query.get("page", "")
        order = query.get("order", "newest")
        return cls(
            query.get("words", "")[:200],
            query.get("status", "")[:40],
            order if order in ORDERS else "newest",
            int(page) if page.isdigit() and len(page) < 6 else 0,
        )


def _score(row: Row) -> float:
    value = row.scores[0][2] if row.scores else None
    return -1e300 if value is None else -value


ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "newest": lambda row: -row.began,
    "oldest": lambda row: row.began,
    "name": lambda row: row.name,
    "model": lambda row: (row.title, -row.began),
    "status": lambda row: (row.status, -row.began),
    "score": lambda row: (not row.scores, _score(row)),
    "longest": lambda row: -(row.seconds or 0),
}
"""How the lines are sorted, by the name of the order."""


def rows(roots: Roots) -> list[Row]:
    """Return a line for every run, sweep and watch."""
    return [_row_or_damage(roots, place) for place in roots.every()]


def chosen(every: Iterable[Row], asked: Asked) -> tuple[list[Row], int]:
    """Return the lines of a page, and how many there are in all."""
    words = asked.words.lower().split()
    found = [
        row
        for row in every
        if (not asked.status or row.status == asked.status) and all(word in _haystack(row) for word in words)
    ]
    found.sort(key=ORDERS[asked.order])
    return found[asked.page * PAGE : (asked.page + 1) * PAGE], len(found)


def _haystack(row: Row) -> str:
    return " ".join((row.name, row.kind, row.status, row.title, *(name for name, _, _ in row.scores))).lower()


def _row_or_damage(roots: Roots, place: Place) -> Row:
    address = f"{place.root}/{quote(place.name)}{'/' if place.name else ''}"
    name = place.name or place.path.name
    try:
        return _row(roots, place, address, name)
    except Exception as error:  # a file of another program, or a damaged one
        label = f"it cannot be read: {type(error).__name__}"
        return Row(address, name, place.kind.value, "error", label, (), 0, _began(place), None)


def _row(roots: Roots, place: Place, address: str, name: str) -> Row:
    folder = RunFolder(place.path)
    if place.kind is not Kind.run:
        return _group_row(roots, place, address, name)
    found = roots.files.mapping(folder.results)
    where = standing(roots.files.mapping(folder.stage), found, folder)
    scores = list(_scores(found))
    seconds = (found.get("timings") or {}).get("total")
    label = title(found, {}, place.path)
    began = _began(place)
    return Row(address, name, "run", where.status, label, tuple(scores[:SCORES]), len(scores) - SCORES, began, seconds)


def _group_row(roots: Roots, place: Place, address: str, name: str) -> Row:
    inside = points(place.path)
    is_running = any(RunFolder(place.path / each).stage.exists() for each in inside)
    label = formatting.plural(len(inside), "point" if place.kind is Kind.sweep else "checkpoint")
    folder = RunFolder(place.path)
    found = roots.files.mapping(folder.sweep if place.kind is Kind.sweep else folder.watch)
    ended = [str(each.get("status")) for each in found.get("points") or []]
    status = "running" if is_running else _status_of_all(ended) if found else "incomplete"
    if ended and status != "ok":
        label += f", {ended.count('ok'):,} ok"
    return Row(address, name, place.kind.value, status, label, (), 0, _began(place), None)


def _status_of_all(statuses: Sequence[str]) -> str:
    """Return the status of a sweep or watch: ``ok`` only where no point has failed or lacks samples."""
    faults = [status for status in statuses if status not in FAULTLESS]
    if not faults:
        return "ok"
    return "incomplete" if "ok" in statuses or "incomplete" in statuses else faults[0]


def _scores(found: Mapping[str, Json]) -> Iterable[tuple[str, str, float | None]]:
    for name, entry in results.folded(found).items() if found.get("tasks") else ():
        for metric, value in list(entry["metrics"].items())[:1]:
            yield name, metric, value["value"]


def _began(place: Place) -> float:
    """Return when a folder was begun: the time of the file that Hydra writes first, else that of the folder."""
    for path in (RunFolder(place.path).overrides, RunFolder(place.path).multirun, place.path):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0
