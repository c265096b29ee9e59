"""Watch a training run's folder for checkpoints, also while one is being evaluated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.checkpoints.states import CheckpointState, State, checkpoints
from launcher.settings.watch import Watch

DAMAGED_FACTOR = 6
"""How many times longer a checkpoint that does not open must be unchanged, before it counts as complete but damaged."""


@dataclass(frozen=True)
class Snapshot:
    """The checkpoints in the folder at one moment. ``complete`` and ``gone`` hold one checkpoint for each step.

    ``unstable``: unmarked, and changed recently, so that they may be incomplete. ``unfinished``: marked incomplete by
    the writer. ``gone``: removed after they were complete or unstable. ``error``: why the folder could not be read.
    """

    complete: tuple[CheckpointState, ...] = ()
    unstable: tuple[CheckpointState, ...] = ()
    unfinished: tuple[CheckpointState, ...] = ()
    gone: tuple[CheckpointState, ...] = ()
    error: str = ""


@dataclass
class CheckpointWatcher:
    """Polls ``folder``; ``snapshot`` is what the last poll found, and ``updated`` is set after each.

    ``done`` holds checkpoints that need not be read again, only looked for.
    """

    folder: Path
    settle_s: float
    clock: Callable[[], float] = time.monotonic
    snapshot: Snapshot = field(default_factory=Snapshot)
    updated: threading.Event = field(default_factory=threading.Event)
    done: dict[Path, CheckpointState] = field(default_factory=dict)
    _since: dict[Path, tuple[str, float]] = field(default_factory=dict)
    _known: dict[str, CheckpointState] = field(default_factory=dict)

    def poll(self) -> None:
        """Read the folder once. While it cannot be read, no checkpoint in it counts as gone."""
        try:
            found = checkpoints(self.folder, dict(self.done))
        except OSError as error:
            self.snapshot = replace(self.snapshot, error=str(error))
        else:
            self.snapshot = self._classified(found)
        self.updated.set()

    def _classified(self, found: list[CheckpointState]) -> Snapshot:
        unfinished = [each for each in found if each.state is State.unfinished]
        other = [each for each in found if each.state is not State.unfinished]
        complete = _one_per_step([each for each in other if self._is_complete(each)])
        unstable = [each for each in other if each.key not in complete]
        present = {each.key for each in found}
        gone = [each for key, each in self._known.items() if key not in present]
        self._known |= {each.key: each for each in unstable} | complete
        return Snapshot(tuple(complete.values()), tuple(unstable), tuple(unfinished), tuple(gone))

    def _is_complete(self, checkpoint: CheckpointState) -> bool:
        """Tell whether a checkpoint is marked complete, or has not changed for long enough by this process's clock."""
        now = self.clock()
        stamp, since = self._since.get(checkpoint.path, ("", now))
        if stamp != checkpoint.stamp:
            since = now
        self._since[checkpoint.path] = checkpoint.stamp, since
        wait_s = self.settle_s * (1 if checkpoint.opens else DAMAGED_FACTOR)
        return checkpoint.state is State.complete or (stamp == checkpoint.stamp and now - since >= wait_s)


def _one_per_step(found: list[CheckpointState]) -> dict[str, CheckpointState]:
    """Keep one checkpoint for each step: not the one that is there under a second name."""
    chosen: dict[str, CheckpointState] = {}
    for each in sorted(found, key=lambda each: (each.sort_key[0], each.is_alias, each.modified)):
        chosen.setdefault(each.key, each)
    return chosen


@contextmanager
def watching(settings: Watch, folder: Path) -> Iterator[CheckpointWatcher]:
    """Yield a watcher that has polled once and goes on in a thread."""
    watcher, over = CheckpointWatcher(folder, settings.settle_s), threading.Event()
    watcher.poll()

    def loop() -> None:
        while not over.wait(min(settings.poll_s, settings.settle_s) if watcher.snapshot.unstable else settings.poll_s):
            watcher.poll()

    thread = threading.Thread(target=loop, name="checkpoint-watcher", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        over.set()
        thread.join()
