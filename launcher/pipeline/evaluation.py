"""The step that evaluates: which folders it may continue, the samples, and whether enough of them were scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.core.errors import CoverageTooLow, ValidationFailed
from launcher.core.event_loop import run_async
from launcher.core.garbage import collected_rarely
from launcher.core.lease import Lease
from launcher.core.types import Check, Endpoint, Json, Outcome, Status, TaskResult
from launcher.evaluate.second_endpoint import SecondEndpoint
from launcher.monitor.health import Watch
from launcher.monitor.replicas import Replicas
from launcher.pipeline import outcomes
from launcher.pipeline.config import ComposedRun, Mode, Run
from launcher.pipeline.harnesses import run_harnesses
from launcher.pipeline.outcomes import harnesses
from launcher.pipeline.record import RunRecord
from launcher.pipeline.server_times import server_times
from launcher.settings.evaluate import Choices, Evaluate
from launcher.settings.until import widths
from launcher.tasks.base import Task
from launcher.tasks.lm_eval.task import LmEval

if TYPE_CHECKING:
    from launcher.evaluate.early_stop import Stop
    from launcher.evaluate.progress import Progress

NAMED = 5
"""How many tasks of too few scored samples are named; the report has all of them."""

log = logging.getLogger(__name__)


def check_resumable(run: Run, folder: Path, key: Json) -> None:
    """Refuse, before anything is touched, a folder whose samples belong to another resume key. Raises `ResumeError`."""
    from launcher.evaluate import journal

    if run.resume is not None or run.mode is Mode.run:
        journal.check(folder, key)


@dataclass(frozen=True)
class Asked:
    """What an evaluation has to do with: the run, its endpoint, and where its results go."""

    composed: ComposedRun
    endpoint: Endpoint
    record: RunRecord
    lease: Lease
    key: Json
    health: Watch
    judge: SecondEndpoint | None = None

    @property
    def run(self) -> Run:
        return self.composed.run


def evaluate(asked: Asked) -> None:
    """Ask every sample and summarize the answers, also when interrupted.

    Raises `CoverageTooLow` if too little was scored, if the server died before the end, or if a task's first metric
    cannot be computed; `TakenOver`.
    """
    with server_times(asked.endpoint, asked.record):
        stopped = _asked(asked)
    conclude(asked, stopped)


def _asked(asked: Asked) -> str | None:
    """Ask every sample, and take over what was found; return why samples were left unasked, None if none were."""
    from launcher.evaluate.progress import progress

    run, record, stopped = asked.run, asked.record, None
    try:
        with record.step("evaluate"), collected_rarely():
            display = progress(Replicas(lambda: asked.health.detail))
            stopped = run_async(ask(asked, _stop(run, outcomes.asked(run.tasks)), display))
        if harnesses(run.tasks) and stopped is None:
            facts = deployment_facts(record, asked.endpoint)
            with record.step("harness"):
                run_harnesses(run, asked.endpoint, asked.lease, asked.health, facts)
    finally:
        collect(asked)
    return stopped


def collect(asked: Asked) -> None:
    """Take over what the run folder has, however the asking ended."""
    record, folder = asked.record, asked.lease.folder
    with collected_rarely():
        found = outcomes.read(folder, asked.run.tasks)
    record.take(found)
    if found.item_changes:
        record.run["item_changes"] = found.item_changes
    record.take_failures(folder)


def conclude(asked: Asked, stopped: str | None) -> None:
    """Write what tasks of lm-eval want, and raise `CoverageTooLow` as `evaluate` does."""
    write_lm_eval(asked.run, asked.endpoint, asked.lease.folder)
    stopped = stopped and f"{stopped}; continue with {asked.composed.continued_by}"
    check_coverage(asked.record.tasks, asked.run.evaluate.min_coverage, stopped)
    check_main_metrics(asked.record.tasks, asked.run.tasks)


async def ask(asked: Asked, stop: Stop | None, display: Progress) -> str | None:
    """Ask every sample of the launcher's own tasks; return why samples were left unasked, None if none were."""
    from launcher.evaluate import evaluator
    from launcher.evaluate.journal import Journal

    run, record, lease, key = asked.run, asked.record, asked.lease, asked.key
    tasks, adapters, folder = outcomes.asked(run.tasks), list(run.adapters.values()), lease.folder
    if not tasks:
        with Journal(folder, key, lease) as journal:
            journal.close([], {"totals": {}, "stopped": None})
        return None
    facts, lines = deployment_facts(record, asked.endpoint), record.hand_over_lines()
    given = asked.endpoint, tasks, adapters, run.evaluate, folder, key, display
    named = asks_next_tokens(run.evaluate, record.checks)
    return await evaluator.ask_all(*given, lease, facts, asked.health, asked.judge, lines, stop, named)


def asks_next_tokens(settings: Evaluate, checks: Sequence[Check]) -> bool:
    """Return whether choices of one token are asked without an echo.

    Raises `ValidationFailed` where that is forced on a server that has not proved that it can.
    """
    from launcher.validate import next_token

    check = next((check for check in checks if check.id == next_token.ID), None)
    can = check is not None and check.outcome is Outcome.passed
    if settings.choices is Choices.next_token and not can:
        why = check.detail if check is not None else "the check was not made"
        raise ValidationFailed(
            f"evaluate.choices=next_token, but the check 'next token' did not pass: {why}; set evaluate.choices=auto"
        )
    return can and settings.choices is not Choices.echo and not settings.store_prompt_logprobs


def _stop(run: Run, tasks: Mapping[str, Task]) -> Stop | None:
    """Return what ends the asking early, None where all samples are to be asked."""
    from launcher.evaluate.early_stop import Draws, Widths

    if run.evaluate.until is None:
        return None
    draws = Draws(tasks, run.groups, run.evaluate.repeats, run.evaluate.order_seed)
    names = [population.name for population in draws.populations]
    return Widths(draws, widths(run.evaluate.until, names), run.evaluate.until)


def write_lm_eval(run: Run, endpoint: Endpoint, folder: Path) -> None:
    """Write the results of tasks of lm-eval in its own format."""
    tasks = {name: task for name, task in run.tasks.items() if isinstance(task, LmEval)}
    if tasks:
        from launcher.tasks.lm_eval import results

        try:
            results.write(folder, tasks, run.groups, endpoint)
        except Exception as error:  # the scores themselves are in the journal, and in results.json
            log.warning("lm_eval/ is not written: %s: %s", type(error).__name__, error)


def deployment_facts(record: RunRecord, endpoint: Endpoint) -> Mapping[str, Json] | None:
    """Return what decides how this server answers; None for a server whose model is not known."""
    run = record.run
    if not endpoint.is_builtin and run["checkpoint"] is None:
        return None
    engine = {name: record.engine.get(name) for name in ("device", "dtype", "optimizations")}
    facts = {name: run[name] for name in ("versions", "git_commit")}
    return facts | {"fingerprint": run["deployment"]["fingerprint"], "engine": engine}


def check_coverage(tasks: Mapping[str, TaskResult], min_coverage: float, stopped: str | None) -> None:
    """Raise `CoverageTooLow` for tasks below ``min_coverage``, or if the evaluation ``stopped`` early."""
    if stopped:
        raise CoverageTooLow(stopped)
    short = [
        f"{name}: {_shortfall(result.coverage)}"
        for name, result in tasks.items()
        if _coverage(result.coverage) < min_coverage
    ]
    if short:
        rest = f"; and {len(short) - NAMED:,} more tasks" if len(short) > NAMED + 1 else ""
        named = "; ".join(short[:NAMED] if rest else short)
        raise CoverageTooLow(f"fewer than min_coverage={min_coverage:g} of the samples were scored: {named}{rest}")


def check_main_metrics(results: Mapping[str, TaskResult], tasks: Mapping[str, Task]) -> None:
    """Raise `CoverageTooLow` for tasks whose first metric cannot be computed, although samples were scored."""
    lost = [
        f"{name}.{task.metrics[0].name}"
        for name, task in tasks.items()
        if results[name].coverage[Status.scored.value]
        and task.metrics
        and task.metrics[0].name not in results[name].metrics
    ]
    if lost:
        raise CoverageTooLow(f"{', '.join(lost)} cannot be computed from the scored samples; the notes say why")


def _coverage(coverage: Mapping[str, int]) -> float:
    return coverage[Status.scored.value] / max(coverage["total"], 1)


def _shortfall(coverage: Mapping[str, int]) -> str:
    rest = ", ".join(
        f"{n} {status.replace('_', ' ')}" for status, n in coverage.items() if n and status not in ("scored", "total")
    )
    return f"{coverage['scored']} of {coverage['total']} scored ({rest})"
