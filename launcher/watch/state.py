"""The state of a watch: one record for each checkpoint, kept in ``watch.json`` for a later session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from launcher.checkpoints.states import CheckpointState
from launcher.checkpoints.watch_record import WatchRecord
from launcher.checkpoints.watcher import Snapshot
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.lease import Lease
from launcher.report import results
from launcher.report import watch as report
from launcher.settings.watch import Order, Watch
from launcher.watch.executors import Executor

MAX_TRIES = 2
"""How often a checkpoint is evaluated that failed and has changed since."""


class WatchState:
    """The records of all checkpoints; ``running`` holds the keys of those whose run is not over."""

    def __init__(self, folder: Path, training: Path) -> None:
        self.folder, self.training, self.lease = folder, training, Lease(folder)
        self.records = {record.folder: record for record in report.read(folder)}
        self.running: set[str] = set()
        self._retry: set[str] = set()

    def restore(self, executor: Executor) -> None:
        """Adopt the runs of an earlier session that are not over; the checkpoints that failed are evaluated again."""
        for key in [key for key, record in self.records.items() if record.status == "evaluating"]:
            if executor.adopt(self.folder / key):
                self.running.add(key)
            else:
                self._end(key, *_outcome(self.folder / key))
        done = {key for key, record in self.records.items() if record.status in ("ok", "missed")}
        self._retry = set(self.records) - self.running - done

    def waiting(self, snapshot: Snapshot, settings: Watch) -> list[CheckpointState]:
        """Return the checkpoints to evaluate, the next one first."""
        found = [each for each in snapshot.complete if is_wanted(each, settings) and self._needs_run(each)]
        return sorted(found, key=lambda each: each.sort_key, reverse=settings.order is Order.newest)

    def _needs_run(self, checkpoint: CheckpointState) -> bool:
        known = self.records.get(checkpoint.key)
        if known is None or checkpoint.key in self._retry:
            return True
        failed = known.status in ("error", "missing", "missed")
        return failed and known.tries < MAX_TRIES and known.stamp != checkpoint.stamp

    def is_done(self, checkpoint: CheckpointState) -> bool:
        """Tell whether no change of a checkpoint's files matters any more."""
        known = self.records.get(checkpoint.key)
        return known is not None and known.status in ("ok", "invalid", "incomplete")

    def start(self, checkpoint: CheckpointState) -> None:
        """Record that the evaluation of a checkpoint begins."""
        known = None if checkpoint.key in self._retry else self.records.get(checkpoint.key)
        self._retry.discard(checkpoint.key)
        self.records[checkpoint.key] = WatchRecord.of(checkpoint, known.tries + 1 if known else 1)
        self.running.add(checkpoint.key)
        self.write()

    def end(self, folders: Iterable[Path]) -> None:
        """Record how runs have ended, and print the table."""
        ended = [folder.name for folder in folders]
        for key in ended:
            self._end(key, *_outcome(self.folder / key))
        if ended:
            self.write(prints=True)

    def _end(self, key: str, status: str, reason: str | None) -> None:
        self.running.discard(key)
        record = self.records[key]
        if status not in ("ok", "interrupted") and not Path(record.checkpoint).exists():
            status, reason = "missed", "it was removed while it was being evaluated"
        self.records[key] = replace(record, status=status, reason=reason)

    def fail(self, key: str, reason: str) -> None:
        """Record that a run could not be started."""
        self._end(key, "error", reason)
        self.write(prints=True)

    def miss(self, gone: Sequence[CheckpointState], settings: Watch) -> None:
        """Record the checkpoints that were removed before they were evaluated."""
        for each in gone:
            if each.key not in self.records and is_wanted(each, settings):
                reason = "it was removed before it was evaluated"
                self.records[each.key] = replace(WatchRecord.of(each, 0), status="missed", reason=reason)
                to_stderr(f"watch: {each.key}: missed: {reason}: {each.path}")
                self.write()

    def write(self, over: bool = False, prints: bool = False) -> None:
        """Write the files; ``prints`` also prints the table; ``over`` says that no more checkpoints will come."""
        ordered = sorted(self.records.values(), key=lambda record: record.sort_key)
        report.report(self.folder, self.training, ordered, over, Console() if prints else None)


def is_wanted(checkpoint: CheckpointState, settings: Watch) -> bool:
    """Tell whether a checkpoint's step is within ``watch.until``."""
    return settings.until is None or checkpoint.step is None or checkpoint.step <= settings.until


def _outcome(folder: Path) -> tuple[str, str | None]:
    try:
        found = results.read(folder)
    except UserError as error:
        return "missing", str(error)
    return str(found["status"]), found["reason"]
