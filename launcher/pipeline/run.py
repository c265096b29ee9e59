"""The six steps of a run, in order: compose → allocate → serve → validate → evaluate → report."""

from __future__ import annotations

from launcher.core.lease import Lease
from launcher.distributed.allocation import Allocation
from launcher.monitor.health import Timing, watch
from launcher.pipeline.config import ComposedRun, Mode
from launcher.pipeline.provenance import provenance, what_changes_answers
from launcher.pipeline.record import RunRecord
from launcher.pipeline.servers import ServerPool, fingerprint
from launcher.pipeline.steps import announced, continued, evaluate, needs, reported, serving, stay, validate


def run(composed: ComposedRun, allocation: Allocation, shared: ServerPool | None = None) -> int:
    """Carry out a composed run in its folder and return the exit code; a report is written however it ends.

    ``allocation`` is that of the process that leads. With ``shared``, the server is taken from there, and left there
    for the next run. Raises `TakenOver`, and writes no more, once another session has begun in the same folder.
    """
    run, config, folder = composed.run, composed.config, composed.folder
    ledger = RunRecord(provenance(config, composed.overrides, allocation))
    with reported(ledger, folder) as outcome, ledger.step("total"):
        ledger.run["checkpoint"] = run.engine.fingerprint(run.model)
        ledger.run["deployment"] = {"fingerprint": fingerprint(run, config, ledger.run["checkpoint"])}
        answers = what_changes_answers(run, config, ledger.run["checkpoint"])
        continued(run, folder, answers)
        claim = outcome.claim = Lease(folder)
        needed = needs(run)
        timing = Timing(limit_s=run.evaluate.max_pause_s)
        with (
            serving(run, ledger, allocation, folder, shared) as server,
            watch(server.endpoint, folder, timing) as health,
        ):
            validate(run, server, needed, ledger, folder)
            with announced(server.endpoint, folder):
                if run.mode is Mode.serve:
                    stay(server.endpoint, health)
                if run.mode is Mode.run:
                    evaluate(run, server.endpoint, ledger, claim, answers, health)
    return outcome.code
