"""The record of one checkpoint of a watch: its state, its run and its outcome."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.checkpoints.states import CheckpointState


@dataclass(frozen=True)
class WatchRecord:
    """A line of ``watch.json``: the checkpoint, its step (None if unknown), and the ``folder`` of its run.

    A watch over several settings has a line for each of them, with the folder ``<checkpoint>/<setting>``.
    ``modified`` is in seconds since 1970. ``status`` is that of the run's report, ``evaluating``, or ``missed`` for a
    checkpoint that was removed too early. ``tries`` counts how often it was begun.
    """

    folder: str
    checkpoint: str
    step: int | None
    modified: float
    stamp: str
    tries: int = 1
    status: str = "evaluating"
    reason: str | None = None

    @classmethod
    def of(cls, checkpoint: CheckpointState, folder: str, tries: int = 1) -> WatchRecord:
        """Return the line of a checkpoint whose evaluation begins, in a ``folder`` of the watch's."""
        return cls(folder, str(checkpoint.path), checkpoint.step, checkpoint.modified, checkpoint.stamp, tries)

    @property
    def sort_key(self) -> tuple[float, float]:
        """What records are sorted by, as `CheckpointState` is."""
        return (-1.0 if self.step is None else self.step, self.modified)

    @property
    def name(self) -> str:
        """The name of the checkpoint in tables and charts."""
        return self.folder.partition("/")[0] if self.step is None else f"step {self.step:,}"
