"""Evaluates the checkpoints of a training run as they come, each once, and keeps the account of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from launcher.checkpoints.states import CheckpointState
from launcher.checkpoints.watch_record import WatchRecord
from launcher.checkpoints.watcher import CheckpointWatcher, Snapshot, scouting
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.lease import Lease
from launcher.core.types import INTERRUPTED, resolve
from launcher.distributed.allocation import Allocation
from launcher.pipeline.config import ComposedRun
from launcher.report import results
from launcher.report import watch as report
from launcher.settings.cluster import Slurm
from launcher.settings.watch import Order, Watch
from launcher.watch.executors import Executor, LocalExecutor, SlurmExecutor
from launcher.watch.point import keep, point_of

TRIES = 2
"""How often a checkpoint that could not be evaluated is begun, if it has changed meanwhile."""

CODES = results.CODES | {"missed": 0, "evaluating": 0}


def watch(base: ComposedRun, allocation: Allocation) -> int:
    """Watch until what was asked for is reached; return the worst exit code of the checkpoints.

    ``base`` is the watch's own configuration and folder. Raises `UserError` for a folder that cannot be watched.
    """
    settings, cluster = base.run.watch, base.run.cluster
    training = _folder(settings)
    account = WatchState(base.folder, training)
    place: Executor = SlurmExecutor(cluster, settings.jobs) if isinstance(cluster, Slurm) else LocalExecutor(allocation)
    account.go_on(place)
    with scouting(settings, training) as scout:
        try:
            _watch(base, settings, scout, account, place)
        except KeyboardInterrupt:
            place.stop()
            account.close(place.ended())
            account.write(over=True)
            _say(f"interrupted; continue with resume={base.folder}", "launcher")
            return INTERRUPTED
    _say_rest(scout.view)
    account.write(over=True)
    return max((CODES.get(entry.status, 1) for entry in account.entries.values()), default=0)


def _folder(settings: Watch) -> Path:
    try:
        found = resolve(settings.folder).absolute()
    except FileNotFoundError as error:
        raise UserError(f"watch.folder={settings.folder}: {error}") from None
    if not found.is_dir():
        raise UserError(f"watch.folder={settings.folder}: there is no folder {found}")
    return found


def _watch(base: ComposedRun, settings: Watch, scout: CheckpointWatcher, account: WatchState, place: Executor) -> None:
    _say(f"{scout.folder}: {len(scout.view.complete)} complete checkpoints, {len(account.entries)} known before")
    trouble = ""
    while True:
        scout.news.clear()
        account.claim.check()
        account.close(place.ended())
        view = scout.view
        if view.trouble != trouble:
            trouble = view.trouble
            _say(trouble or "the folder can be read again")
        account.miss(view.gone, settings)
        waiting = account.waiting(view, settings)
        scout.done |= {seen.path: seen for seen in view.complete if account.is_done(seen)}
        if waiting and place.free():
            _begin(point_of(base, waiting[0]), waiting[0], account, place)
        elif not waiting and not (account.open and place.waits) and _is_over(view, settings):
            return
        else:
            scout.news.wait(min(settings.poll_s, place.poll_s))


def _begin(point: ComposedRun, seen: CheckpointState, account: WatchState, place: Executor) -> None:
    _say(f"{seen.key}: {seen.path}")
    account.begin(seen)
    keep(point, account.folder)
    try:
        place.begin(point)
    except UserError as error:
        _say(str(error), "launcher")
        account.fail(seen.key, str(error))


def _is_over(view: Snapshot, settings: Watch) -> bool:
    """Tell whether nothing more is asked for, when all that is complete is evaluated."""
    if settings.once:
        return not [seen for seen in view.settling if _is_asked(seen, settings)]
    if settings.until is None:
        return False
    reached = any(seen.step is not None and seen.step >= settings.until for seen in (*view.complete, *view.gone))
    return reached and not [seen for seen in view.settling if _is_asked(seen, settings)]


def _is_asked(seen: CheckpointState, settings: Watch) -> bool:
    return settings.until is None or seen.step is None or seen.step <= settings.until


def _say_rest(view: Snapshot) -> None:
    for seen in view.unfinished:
        _say(f"{seen.path.name}: not evaluated, it is not complete: {seen.reason}")


class WatchState:
    """What became of each checkpoint; kept in ``watch.json``, from which a later session goes on."""

    def __init__(self, folder: Path, training: Path) -> None:
        self.folder, self.training, self.claim = folder, training, Lease(folder)
        self.entries = {entry.folder: entry for entry in report.read(folder)}
        self.open: set[str] = set()
        self._again: set[str] = set()

    def go_on(self, place: Executor) -> None:
        """Follow what an earlier session has begun and is not over; what did not end ok is to be evaluated again."""
        for key in [key for key, entry in self.entries.items() if entry.status == "evaluating"]:
            if place.adopt(self.folder / key):
                self.open.add(key)
            else:
                self._end(key, *_outcome(self.folder / key))
        done = {key for key, entry in self.entries.items() if entry.status in ("ok", "missed")}
        self._again = set(self.entries) - self.open - done

    def waiting(self, view: Snapshot, settings: Watch) -> list[CheckpointState]:
        """Return the checkpoints to evaluate, the next one first."""
        found = [seen for seen in view.complete if _is_asked(seen, settings) and self._is_new(seen)]
        return sorted(found, key=lambda seen: seen.place, reverse=settings.order is Order.newest)

    def _is_new(self, seen: CheckpointState) -> bool:
        known = self.entries.get(seen.key)
        if known is None or seen.key in self._again:
            return True
        failed = known.status in ("error", "missing", "missed")
        return failed and known.tries < TRIES and known.stamp != seen.stamp

    def is_done(self, seen: CheckpointState) -> bool:
        """Tell whether nothing that may happen to a checkpoint matters any more."""
        known = self.entries.get(seen.key)
        return known is not None and known.status in ("ok", "invalid", "incomplete")

    def begin(self, seen: CheckpointState) -> None:
        """Open the account of a checkpoint."""
        known = None if seen.key in self._again else self.entries.get(seen.key)
        self._again.discard(seen.key)
        self.entries[seen.key] = WatchRecord.of(seen, known.tries + 1 if known else 1)
        self.open.add(seen.key)
        self.write()

    def close(self, folders: Iterable[Path]) -> None:
        """Note how runs have ended, and print the table."""
        ended = [folder.name for folder in folders]
        for key in ended:
            self._end(key, *_outcome(self.folder / key))
        if ended:
            self.write(prints=True)

    def _end(self, key: str, status: str, reason: str | None) -> None:
        self.open.discard(key)
        entry = self.entries[key]
        if status not in ("ok", "interrupted") and not Path(entry.checkpoint).exists():
            status, reason = "missed", "it was removed while it was being evaluated"
        self.entries[key] = replace(entry, status=status, reason=reason)

    def fail(self, key: str, reason: str) -> None:
        """Note that a run could not be begun."""
        self._end(key, "error", reason)
        self.write(prints=True)

    def miss(self, gone: Sequence[CheckpointState], settings: Watch) -> None:
        """Note checkpoints that were removed before they were evaluated."""
        for seen in gone:
            if seen.key not in self.entries and _is_asked(seen, settings):
                said = "it was removed before it was evaluated"
                self.entries[seen.key] = replace(WatchRecord.of(seen, 0), status="missed", reason=said)
                _say(f"{seen.key}: missed: {said}: {seen.path}")
                self.write()

    def write(self, over: bool = False, prints: bool = False) -> None:
        """Write the files, and print the table where something has ended; ``over``: no more will come."""
        report.report(self.folder, self.training, self._ordered(), over, Console() if prints else None)

    def _ordered(self) -> list[WatchRecord]:
        return sorted(self.entries.values(), key=lambda entry: entry.place)


def _outcome(folder: Path) -> tuple[str, str | None]:
    try:
        found = results.read(folder)
    except UserError as error:
        return "missing", str(error)
    return str(found["status"]), found["reason"]


def _say(line: str, who: str = "watch") -> None:
    to_stderr(f"{who}: {line}")
