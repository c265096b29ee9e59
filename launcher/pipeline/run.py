"""The six steps of a run, in order: compose → allocate → serve → validate → evaluate → report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from launcher.core import stage
from launcher.core.lease import Lease
from launcher.core.logs import launcher_log
from launcher.core.run_folder import RunFolder
from launcher.distributed.allocation import Allocation
from launcher.monitor.health import Timing, watch
from launcher.pipeline.config import ComposedRun, Mode
from launcher.pipeline.evaluation import Asked, check_resumable, evaluate
from launcher.pipeline.exporting import exports_of
from launcher.pipeline.hooks import hooks_of
from launcher.pipeline.judging import identity, judging
from launcher.pipeline.loading import measure_load, needs_certificate
from launcher.pipeline.provenance import packages_of, provenance, resume_key
from launcher.pipeline.proxying import proxy_forever, proxying, reserved
from launcher.pipeline.record import RunRecord
from launcher.pipeline.reporting import reporting
from launcher.pipeline.scoring import score
from launcher.pipeline.servers import ServerPool, fingerprint
from launcher.pipeline.serving import endpoint_file, serve_forever, serving
from launcher.pipeline.validation import required_capabilities, validate


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
    record = RunRecord(
        provenance(config, composed.overrides, allocation, packages_of(composed.run)), run.tasks, run.groups
    )
    with (
        ExitStack() as logged,
        stage.board() as board,
        reporting(record, folder, hooks_of(run, folder), exports_of(run)) as exit_status,
        record.step("total"),
    ):
        record.run["checkpoint"] = run.engine.fingerprint(run.model)
        record.run["deployment"] = {"fingerprint": fingerprint(run, config, record.run["checkpoint"])}
        key = resume_key(run, config, record.run["checkpoint"]) | identity(run, config)
        check_resumable(run, folder, key)
        lease = exit_status.lease = Lease(folder)
        logged.enter_context(launcher_log(RunFolder(folder).launcher_log))
        board.folder = folder
        needed = required_capabilities(run)
        timing = Timing(limit_s=run.evaluate.max_pause_s)
        wanted = run if run.mode is Mode.run else replace(run, judge=None)
        with (
            reserved(run) as listener,
            judging(wanted, config, record, allocation, folder, pool) as judge,
            serving(run, record, allocation, folder, pool) as server,
            watch(server.endpoint, folder, timing, run.monitor) as health,
        ):
            with needs_certificate(run.load, record):
                validate(run, server, needed, record, folder)
            measure_load(run.load, server.endpoint, record, folder)
            health.start_canary(server.endpoint)
            with (
                endpoint_file(server.endpoint, folder),
                proxying(run, listener, server.endpoint, record, folder) as proxy,
            ):
                if run.mode in (Mode.proxy, Mode.serve):
                    board.begin("serving", lines=False)
                if run.mode is Mode.proxy and proxy is not None:
                    proxy_forever(proxy, server.endpoint, health, lease)
                if run.mode is Mode.serve:
                    serve_forever(server.endpoint, health, lease)
                if run.mode is Mode.run:
                    evaluating(Asked(run, server.endpoint, record, lease, key, health, judge))
    return exit_status.code
