"""The state of a watch: one record for each run of a checkpoint, kept in ``watch.json`` for a later session."""

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
from launcher.report.sweep_schema import SettingEntry
from launcher.settings.watch import Order, Watch
from launcher.watch.checkpoint_run import Setting
from launcher.watch.executors import Executor

MAX_TRIES = 2
"""How often a checkpoint is evaluated that failed and has changed since."""


class WatchState:
    """The records of all runs by their folders; ``running`` holds those that are not over.

    A checkpoint has one run for each of the settings. Raises `UserError` for the folder of a watch over others.
    """

    def __init__(self, folder: Path, training: Path, settings: Sequence[Setting]) -> None:
        self.settings = settings
        self.series = [SettingEntry(name=one.name, overrides=list(one.overrides)) for one in settings if one.name]
        report.read(folder, self.series)  # before another session loses the folder
        self.folder, self.training, self.lease = folder, training, Lease(folder)
        self.records = {record.folder: record for record in report.read(folder, self.series)}
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
        found = [each for each in snapshot.complete if is_wanted(each, settings) and self.due(each)]
        return sorted(found, key=lambda each: each.sort_key, reverse=settings.order is Order.newest)

    @property
    def checkpoints(self) -> int:
        """How many checkpoints have a record."""
        return len({record.checkpoint for record in self.records.values()})

    def due(self, checkpoint: CheckpointState) -> list[Setting]:
        """Return the settings that a checkpoint is still to be evaluated with."""
        return [setting for setting in self.settings if self._is_due(setting.folder_of(checkpoint), checkpoint)]

    def _is_due(self, key: str, checkpoint: CheckpointState) -> bool:
        known = self.records.get(key)
        if known is None or key in self._retry:
            return True
        failed = known.status in ("error", "missing", "missed")
        return failed and known.tries < MAX_TRIES and known.stamp != checkpoint.stamp

    def is_done(self, checkpoint: CheckpointState) -> bool:
        """Tell whether no change of a checkpoint's files matters any more."""
        known = [self.records.get(key) for key in self._keys(checkpoint)]
        return all(one is not None and one.status in ("ok", "invalid", "incomplete") for one in known)

    def _keys(self, checkpoint: CheckpointState) -> list[str]:
        return [setting.folder_of(checkpoint) for setting in self.settings]

    def start(self, checkpoint: CheckpointState, key: str) -> None:
        """Record that a run of a checkpoint begins; ``key`` is its folder."""
        known = None if key in self._retry else self.records.get(key)
        self._retry.discard(key)
        self.records[key] = WatchRecord.of(checkpoint, key, known.tries + 1 if known else 1)
        self.running.add(key)
        self.write()

    def end(self, folders: Iterable[Path]) -> None:
        """Record how runs have ended, and print the table."""
        ended = [folder.relative_to(self.folder).as_posix() for folder in folders]
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
            new = [key for key in self._keys(each) if key not in self.records]
            if new and is_wanted(each, settings):
                reason = "it was removed before it was evaluated"
                for key in new:
                    self.records[key] = replace(WatchRecord.of(each, key, 0), status="missed", reason=reason)
                to_stderr(f"watch: {each.key}: missed: {reason}: {each.path}")
                self.write()

    def write(self, over: bool = False, prints: bool = False) -> None:
        """Write the files; ``prints`` also prints the table; ``over`` says that no more checkpoints will come."""
        ordered = sorted(self.records.values(), key=lambda record: record.sort_key)
        report.report(self.folder, self.training, ordered, over, Console() if prints else None, self.series)


def is_wanted(checkpoint: CheckpointState, settings: Watch) -> bool:
    """Tell whether a checkpoint's step is within ``watch.until``."""
    return settings.until is None or checkpoint.step is None or checkpoint.step <= settings.until


def _outcome(folder: Path) -> tuple[str, str | None]:
    try:
        found = results.read(folder)
    except UserError as error:
        return "missing", str(error)
    return str(found["status"]), found["reason"]
