"""Watch a training run's folder for checkpoints, also while one is being evaluated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from launcher.checkpoints.states import CheckpointState, State, checkpoints
from launcher.settings.watch import Watch

PATIENCE = 6
"""How many times longer a checkpoint that does not open must be unchanged, before it is taken for damaged."""


@dataclass(frozen=True)
class Snapshot:
    """What a look has found. ``complete`` and ``gone`` hold one checkpoint for each step.

    ``settling`` may be complete: they are unmarked, and have changed lately. ``unfinished`` are not, their writer says.
    ``gone`` were complete or settling, and are not there any more. ``trouble`` is why the folder could not be read.
    """

    complete: tuple[CheckpointState, ...] = ()
    settling: tuple[CheckpointState, ...] = ()
    unfinished: tuple[CheckpointState, ...] = ()
    gone: tuple[CheckpointState, ...] = ()
    trouble: str = ""


@dataclass
class CheckpointWatcher:
    """Looks at ``folder``; ``view`` is what the last look found, and ``news`` is set after each."""

    folder: Path
    settle_s: float
    clock: Callable[[], float] = time.monotonic
    view: Snapshot = field(default_factory=Snapshot)
    news: threading.Event = field(default_factory=threading.Event)
    done: dict[Path, CheckpointState] = field(default_factory=dict)
    """Those that need not be looked into again: they are only looked for."""
    _since: dict[Path, tuple[str, float]] = field(default_factory=dict)
    _known: dict[str, CheckpointState] = field(default_factory=dict)

    def look(self) -> None:
        """Look once. A folder that cannot be read now is looked at again later: nothing in it counts as gone."""
        try:
            found = checkpoints(self.folder, dict(self.done))
        except OSError as error:
            self.view = Snapshot(
                self.view.complete, self.view.settling, self.view.unfinished, self.view.gone, str(error)
            )
        else:
            self.view = self._sorted(found)
        self.news.set()

    def _sorted(self, found: list[CheckpointState]) -> Snapshot:
        unfinished = [seen for seen in found if seen.state is State.unfinished]
        other = [seen for seen in found if seen.state is not State.unfinished]
        complete = _first([seen for seen in other if self._is_complete(seen)])
        settling = [seen for seen in other if seen.key not in complete]
        here = {seen.key for seen in found}
        gone = [seen for key, seen in self._known.items() if key not in here]
        self._known |= {seen.key: seen for seen in settling} | complete
        return Snapshot(tuple(complete.values()), tuple(settling), tuple(unfinished), tuple(gone))

    def _is_complete(self, seen: CheckpointState) -> bool:
        """Tell whether a checkpoint is marked so, or has not changed for long enough, by our own clock."""
        now = self.clock()
        stamp, since = self._since.get(seen.path, ("", now))
        if stamp != seen.stamp:
            since = now
        self._since[seen.path] = seen.stamp, since
        wait_s = self.settle_s * (1 if seen.whole else PATIENCE)
        return seen.state is State.complete or (stamp == seen.stamp and now - since >= wait_s)


def _first(found: list[CheckpointState]) -> dict[str, CheckpointState]:
    """Keep one checkpoint for each step: not the one that is there under a second name."""
    chosen: dict[str, CheckpointState] = {}
    for seen in sorted(found, key=lambda seen: (seen.place[0], seen.second, seen.modified)):
        chosen.setdefault(seen.key, seen)
    return chosen


@contextmanager
def scouting(settings: Watch, folder: Path) -> Iterator[CheckpointWatcher]:
    """Yield a scout that has looked once and goes on in a thread of its own."""
    scout, over = CheckpointWatcher(folder, settings.settle_s), threading.Event()
    scout.look()

    def loop() -> None:
        while not over.wait(min(settings.poll_s, settings.settle_s) if scout.view.settling else settings.poll_s):
            scout.look()

    thread = threading.Thread(target=loop, name="scout", daemon=True)
    thread.start()
    try:
        yield scout
    finally:
        over.set()
        thread.join()
