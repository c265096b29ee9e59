"""The six steps of a run, in order: compose → allocate → serve → validate → evaluate → report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from socket import socket

from launcher.adapters.parameters import imposed
from launcher.core import stage
from launcher.core.console import one_line
from launcher.core.lease import Lease
from launcher.core.logs import launcher_log
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.distributed.allocation import Allocation
from launcher.monitor.health import Timing, watch
from launcher.pipeline.config import ComposedRun, Mode
from launcher.pipeline.evaluation import Asked, check_resumable, evaluate
from launcher.pipeline.exporting import exports_of
from launcher.pipeline.hooks import hooks_of
from launcher.pipeline.judging import identity, judging
from launcher.pipeline.loading import measure_load, needs_certificate
from launcher.pipeline.provenance import packages_of, provenance, resume_key
from launcher.pipeline.proxying import proxying, reserved
from launcher.pipeline.record import RunRecord
from launcher.pipeline.reporting import reporting
from launcher.pipeline.scoring import score
from launcher.pipeline.servers import ServerPool, fingerprint
from launcher.pipeline.serving import endpoint_file, serve_forever, serving
from launcher.pipeline.validation import required_capabilities, validate
from launcher.proxy.supervisor import Supervisor


def run(
    composed: ComposedRun,
    allocation: Allocation,
    pool: ServerPool | None = None,
    evaluating: Callable[[Asked], None] = evaluate,
) -> int:
    """Execute a composed run in its folder and return the exit code; a report is written however it ends.

    ``allocation`` is that of the process that leads. With ``pool``, the server comes from there, and stays up for the
    next run. ``evaluating`` does the step that evaluates. Raises `TakenOver`, and writes no more, once another session
    has begun in the same folder.
    """
    if composed.run.mode is Mode.score:
        return score(composed, allocation, pool)
    run, config, folder = composed.run, composed.config, composed.folder
    origin = provenance(config, composed.overrides, allocation, packages_of(run))
    record, race = RunRecord(origin, run.tasks, run.groups), composed if composed.race else None
    with (
        ExitStack() as resources,
        stage.board() as board,
        reporting(record, folder, hooks_of(run, folder), exports_of(run), race) as exit_status,
        record.step("total"),
    ):
        judges = {} if run.used_judge is None else run.used_judge.adapters
        if found := [*imposed(run.adapters.values()), *imposed(judges.values(), "judge.")]:
            record.run["adapter_parameters"] = found
        record.run["checkpoint"] = run.engine.fingerprint(run.model)
        record.run["deployment"] = {"fingerprint": fingerprint(run, config, record.run["checkpoint"])}
        key = resume_key(run, config, record.run["checkpoint"]) | identity(run, config)
        check_resumable(run, folder, key)
        listener = resources.enter_context(reserved(run))  # a port that is taken costs an earlier session nothing
        lease = exit_status.lease = Lease(folder)
        resources.enter_context(launcher_log(RunFolder(folder).launcher_log))
        board.folder = folder
        _serve(_Begun(composed, allocation, pool, record, listener, lease, key), evaluating)
    return exit_status.code


@dataclass(frozen=True)
class _Begun:
    """A run that holds its folder: what it was composed of, where it runs, and where its results go."""

    composed: ComposedRun
    allocation: Allocation
    pool: ServerPool | None
    record: RunRecord
    listener: socket | None
    lease: Lease
    key: Json


def _serve(begun: _Begun, evaluating: Callable[[Asked], None]) -> None:
    """Serve the model, validate the endpoint, measure it where that is asked for, and use it."""
    run, folder, record = begun.composed.run, begun.composed.folder, begun.record
    needed = required_capabilities(run)
    timing = Timing(limit_s=run.evaluate.max_pause_s)
    wanted = run if run.mode is Mode.run else replace(run, judge=None)
    with (
        judging(wanted, begun.composed.config, record, begun.allocation, folder, begun.pool) as judge,
        serving(run, record, begun.allocation, folder, begun.pool) as server,
        watch(server.endpoint, folder, timing, run.monitor) as health,
    ):
        with needs_certificate(run.load, record):
            validate(run, server, needed, record, folder)
        measure_load(run.load, server.endpoint, record, folder)
        health.start_canary(server.endpoint)
        asked = Asked(begun.composed, server.endpoint, record, begun.lease, begun.key, health, judge)
        with (
            endpoint_file(server.endpoint, folder),
            proxying(run, begun.listener, server.endpoint, record, folder) as proxy,
        ):
            _use(asked, proxy, evaluating)


def _use(asked: Asked, proxy: Supervisor | None, evaluating: Callable[[Asked], None]) -> None:
    """Serve until the end, or evaluate, as the mode says; ``mode=validate`` is done."""
    mode, board = asked.run.mode, stage.current()
    if mode in (Mode.proxy, Mode.serve) and board is not None:
        board.begin("serving", lines=False)
    if mode in (Mode.proxy, Mode.serve):
        url = proxy.url if mode is Mode.proxy and proxy is not None else asked.endpoint.url
        doing = "proxying" if mode is Mode.proxy else "serving"
        what = f"{doing} {one_line(asked.endpoint.model)} at {url}"
        serve_forever(what, asked.endpoint, asked.health, asked.lease, proxy)
    if mode is Mode.run:
        evaluating(asked)
