"""The six steps of a run, in order: compose → allocate → serve → validate → evaluate → report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.allocation import allocate
from launcher.config import Mode, Run
from launcher.core import Json
from launcher.ledger import Ledger
from launcher.monitor.health import watch
from launcher.provenance import fingerprint, provenance, what_changes_answers
from launcher.steps import continued, evaluate, needs, reported, serving, stay, validate


def run(run: Run, config: Mapping[str, Json], overrides: list[str], folder: Path) -> int:
    """Carry out a composed run in ``folder`` and return the exit code; a report is written however it ends."""
    allocation = allocate()
    ledger = Ledger(provenance(config, overrides, allocation))
    with reported(ledger, folder) as outcome, ledger.step("total"):
        ledger.run["checkpoint"] = fingerprint(run.model)
        answers = what_changes_answers(run, config, ledger.run["checkpoint"])
        continued(run, folder, answers)
        needed = needs(run)
        with serving(run, ledger, allocation, folder) as endpoint, watch(endpoint, folder) as health:
            validate(run, endpoint, needed, ledger, folder)
            if run.mode is Mode.serve:
                stay(endpoint, health)
            if run.mode is Mode.run:
                evaluate(run, endpoint, ledger, folder, answers)
    return outcome.code
