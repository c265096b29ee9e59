"""Evaluates each checkpoint of a training run once, as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.checkpoints.states import CheckpointState
from launcher.checkpoints.watcher import CheckpointWatcher, Snapshot, watching
from launcher.core import stage
from launcher.core.console import to_stderr
from launcher.core.errors import UserError
from launcher.core.types import INTERRUPTED, resolve
from launcher.distributed.allocation import Allocation
from launcher.pipeline.config import ComposedRun
from launcher.report import results
from launcher.settings.cluster import Slurm
from launcher.settings.watch import Watch
from launcher.watch.checkpoint_run import Setting, run_of, write_configuration
from launcher.watch.executors import Executor, LocalExecutor, SlurmExecutor
from launcher.watch.state import WatchState, is_wanted

CODES = results.CODES | {"missed": 0, "evaluating": 0}


def watch(evaluated: Sequence[Setting], folder: Path, allocation: Allocation) -> int:
    """Watch until ``watch.until`` or ``watch.once`` is satisfied; return the worst exit code of the checkpoints.

    Every checkpoint is ``evaluated`` with each of these settings, in ``folder``. Raises `UserError` for a folder that
    cannot be watched.
    """
    settings, cluster = evaluated[0].base.run.watch, evaluated[0].base.run.cluster
    training = _folder(settings)
    state = WatchState(folder, training, evaluated)
    executor = SlurmExecutor(cluster, settings.jobs) if isinstance(cluster, Slurm) else LocalExecutor(allocation)
    state.restore(executor)
    with stage.board() as board, watching(settings, training) as watcher:
        board.begin("waiting for a checkpoint", lines=False)
        try:
            _watch(settings, watcher, state, executor)
        except KeyboardInterrupt:
            executor.stop()
            state.end(executor.ended())
            state.write(over=True)
            to_stderr(f"launcher: interrupted; continue with resume={folder}")
            return INTERRUPTED
    _print_unfinished(watcher.snapshot)
    if not state.records:
        to_stderr(f"watch: {watcher.folder}: nothing was evaluated, as it holds no complete checkpoint")
    state.write(over=True)
    return max((CODES.get(record.status, 1) for record in state.records.values()), default=0)


def _folder(settings: Watch) -> Path:
    try:
        found = resolve(settings.folder).absolute()
    except FileNotFoundError as error:
        raise UserError(f"watch.folder={settings.folder}: {error}") from None
    if not found.is_dir():
        raise UserError(f"watch.folder={settings.folder}: there is no folder {found}")
    return found


def _watch(settings: Watch, watcher: CheckpointWatcher, state: WatchState, executor: Executor) -> None:
    complete = len(watcher.snapshot.complete)
    to_stderr(f"watch: {watcher.folder}: {complete} complete checkpoints, {state.checkpoints} known before")
    error = ""
    while True:
        watcher.updated.clear()
        state.lease.check()
        state.end(executor.ended())
        snapshot = watcher.snapshot
        if snapshot.error != error:
            error = snapshot.error
            to_stderr(f"watch: {error or 'the folder can be read again'}")
        state.miss(snapshot.gone, settings)
        waiting = state.waiting(snapshot, settings)
        stage.report(note=f"{len(state.records) - len(state.running)} evaluated, {len(waiting)} to evaluate")
        watcher.done |= {each.path: each for each in snapshot.complete if state.is_done(each)}
        if waiting and executor.has_capacity():
            _evaluate(waiting[0], state, executor)
        elif not waiting and not (state.running and executor.waits) and _is_over(snapshot, settings):
            return
        else:
            watcher.updated.wait(min(settings.poll_s, executor.poll_s))


def _evaluate(checkpoint: CheckpointState, state: WatchState, executor: Executor) -> None:
    """Start the runs of a checkpoint that are not done, one for each setting."""
    due = state.due(checkpoint)
    with executor.sharing(len(due)):
        for settings in executor.together(due):
            _start(settings, checkpoint, state, executor)
            state.lease.check()
            state.end(executor.ended())


def _start(settings: Sequence[Setting], checkpoint: CheckpointState, state: WatchState, executor: Executor) -> None:
    """Start the runs of a checkpoint with some settings together; record it where they cannot start."""
    runs = [_begun(setting, checkpoint, state) for setting in settings]
    try:
        executor.start(runs)
    except UserError as error:
        to_stderr(f"launcher: {error}")
        for setting in settings:
            state.fail(setting.folder_of(checkpoint), str(error))


def _begun(setting: Setting, checkpoint: CheckpointState, state: WatchState) -> ComposedRun:
    """Record that the run of a checkpoint begins, and write its configuration."""
    name, label = setting.folder_of(checkpoint), " ".join(setting.overrides)
    to_stderr(f"watch: {name}: {f'{label}: ' if label else ''}{checkpoint.path}")
    state.start(checkpoint, name)
    run = run_of(setting, checkpoint, state.folder)
    write_configuration(run, setting.hydra_config)
    return run


def _is_over(snapshot: Snapshot, settings: Watch) -> bool:
    """Tell whether the watch ends once all complete checkpoints are evaluated."""
    pending = [each for each in snapshot.unstable if is_wanted(each, settings)]
    if settings.once:
        return not pending
    if settings.until is None:
        return False
    known = (*snapshot.complete, *snapshot.gone)
    return not pending and any(each.step is not None and each.step >= settings.until for each in known)


def _print_unfinished(snapshot: Snapshot) -> None:
    for each in snapshot.unfinished:
        to_stderr(f"watch: {each.path.name}: not evaluated, it is not complete: {each.reason}")
