"""What a run is doing now, and how far it is: on the terminal, and in ``stage.json`` for others to see."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from launcher.core import console
from launcher.core.errors import UserError
from launcher.core.files import install
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json

T = TypeVar("T")

DRAW_S = 0.2
PUBLISH_S = 1.0
FIRST_LINE_S, NEXT_LINE_S = 10.0, 30.0
"""Without a terminal that can redraw, a step prints a line after so many seconds, and then again and again."""
GB, MB = 1e9, 1e6


class TaskProgress(TypedDict):
    """A task so far: its samples (null: not known yet), how they ended, and the mean of its first metric over ``n``."""

    total: int | None
    ended: dict[str, int]
    metric: str | None
    mean: float | None
    n: int


class StageFile(TypedDict):
    """``stage.json``, which a run replaces every second and removes once its results are written.

    ``time``, ``began`` and ``step_began`` are seconds since 1970. ``steps`` has the seconds of the steps that are over.
    ``done`` of ``total`` things named ``unit`` are behind the current step; null where that is not known. ``earlier``
    counts the samples of earlier sessions, which ``tasks`` lack. ``pause`` says why an evaluation waits.
    """

    time: float
    began: float
    step: str
    step_began: float
    done: float | None
    total: float | None
    unit: str
    note: str
    steps: dict[str, float]
    tasks: NotRequired[dict[str, TaskProgress]]
    earlier: NotRequired[int]
    throughput: NotRequired[dict[str, Json]]
    pause: NotRequired[str]


@dataclass
class Stage:
    """A step, and how far it is."""

    step: str
    began: float = field(default_factory=time.time)
    done: float | None = None
    total: float | None = None
    unit: str = ""
    note: str = ""

    def describe(self) -> str:
        """Return for instance ``serve 12 s: 1.2 of 4.5 GB, file 3 of 8``."""
        parts = ", ".join(filter(None, (amount(self.done, self.total, self.unit), self.note)))
        return f"{self.step} {time.time() - self.began:.0f} s" + (f": {parts}" if parts else "")


def amount(done: float | None, total: float | None, unit: str) -> str:
    """Return ``done`` of ``total`` with the unit, bytes as GB or MB; empty where nothing is known."""
    if done is None:
        return ""
    is_bytes = unit == "bytes"
    scale, name = (GB if (total or done) >= GB else MB, "") if is_bytes else (1.0, unit)
    name = name or ("GB" if scale == GB else "MB") if is_bytes else name
    shown = [f"{number / scale:,.{int(is_bytes)}f}" for number in (done, total) if number is not None]
    return f"{' of '.join(shown)} {name}".strip()


class Board:
    """Shows the stage of a run until it is closed. ``folder``, once it is set, gets ``stage.json``.

    ``facts`` returns further fields of that file, and ``tick`` is called instead of drawing, where they are set.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.facts: Callable[[], Mapping[str, Json]] = dict
        self.tick: Callable[[], None] | None = None
        self.stage = Stage("prepare")
        self._began, self._steps, self._told = time.time(), dict[str, float](), 0.0
        self._redraws = console.redraws(sys.stderr)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def begin(self, step: str, *, lines: bool = True) -> None:
        """Show a step from now on; without ``lines`` only where lines can be drawn again."""
        self.end()
        self.stage, self._told = Stage(step), 0.0 if lines else math.inf

    def end(self) -> None:
        """Note how long the step took; nothing is shown until the next one begins."""
        if self.stage.step:
            self._steps[self.stage.step] = round(time.time() - self.stage.began, 3)
        self.stage, self.tick = Stage(""), None
        console.status("")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show and publish until the context is left; then the file is removed."""
        self._thread.start()
        try:
            yield
        finally:
            self._closed.set()
            self._thread.join()
            console.status("")
            if self.folder is not None:
                with suppress(OSError):
                    RunFolder(self.folder).stage.unlink()

    def _run(self) -> None:
        published = 0.0
        while not self._closed.wait(DRAW_S):
            with suppress(Exception):  # what is only shown never ends a run
                self._show()
                if self.folder is not None and time.monotonic() - published >= PUBLISH_S:
                    published = time.monotonic()
                    text = json.dumps({**self._found(), **self.facts()}) + "\n"
                    install(RunFolder(self.folder).stage, text, durable=False)

    def _show(self) -> None:
        if self.tick is not None:
            self.tick()
        elif not self.stage.step:
            return
        elif self._redraws:
            console.status(f"{_prefix}{self.stage.describe()}")
        elif time.time() - self.stage.began > (self._told + NEXT_LINE_S if self._told else FIRST_LINE_S):
            self._told = time.time() - self.stage.began
            console.to_stderr(f"{_prefix}{self.stage.describe()}")

    def _found(self) -> StageFile:
        stage = self.stage
        return {
            "time": round(time.time(), 3),
            "began": self._began,
            "step": stage.step,
            "step_began": stage.began,
            "done": stage.done,
            "total": stage.total,
            "unit": stage.unit,
            "note": stage.note,
            "steps": dict(self._steps),
        }


_boards: list[Board] = []
_prefix = ""


@contextmanager
def board() -> Iterator[Board]:
    """Show the stage of a run; leaving the context shows that of the run around it, a watch for instance, again."""
    made = Board()
    _boards.append(made)
    try:
        with made.shown():
            yield made
    finally:
        _boards.remove(made)


def current() -> Board | None:
    """Return the board of the run that goes on in this process; None in a worker process, and outside of a run."""
    return _boards[-1] if _boards else None


def report(done: float | None = None, total: float | None = None, unit: str = "", note: str = "") -> None:
    """Show how far the current step is; nothing happens without a board."""
    if _boards:
        stage = _boards[-1].stage
        stage.done, stage.total, stage.unit, stage.note = done, total, unit, note


def title() -> str:
    """Return the words of `titled`; empty outside of it."""
    return _prefix


@contextmanager
def titled(title: str) -> Iterator[None]:
    """Put a few words before each step, for instance which point of a sweep it belongs to."""
    global _prefix
    before, _prefix = _prefix, f"{title} · " if title else ""
    try:
        yield
    finally:
        _prefix = before


@contextmanager
def swept(folder: Path, turn: int, total: int) -> Iterator[None]:
    """Keep in the folder of a sweep which of its points runs; the file is removed afterwards."""
    now, path = time.time(), RunFolder(folder).stage
    found = StageFile(
        time=now, began=now, step="sweep", step_began=now, done=turn - 1, total=total, unit="points", note="", steps={}
    )
    with suppress(UserError):
        install(path, json.dumps(found) + "\n", durable=False)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


class Loading:
    """Reports the bytes of weights that are read, and the files that they come from."""

    def __init__(self, parts: Iterable[tuple[Path, int]]) -> None:
        sizes = list(parts)
        self._total, self._done = sum(size for _, size in sizes), 0
        self._files, self._seen = len({path for path, _ in sizes}), set[Path]()

    def read(self, path: Path, size: int) -> None:
        """Count a part that was read."""
        self._done += size
        self._seen.add(path)
        report(min(self._done, self._total), self._total, "bytes", f"file {len(self._seen)} of {self._files}")

    def counting(self, read: Callable[[str], T], places: Mapping[str, tuple[Path, int]]) -> Callable[[str], T]:
        """Return ``read``, which reads a part by name, so that it counts what it has read."""

        def counted(name: str) -> T:
            found = read(name)
            self.read(*places[name])
            return found

        return counted
