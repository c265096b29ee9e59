"""mode=score: score the answers of an earlier run again, in a folder of its own, without the server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.errors import ResumeError, UserError
from launcher.core.event_loop import run_async
from launcher.core.lease import Lease
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.evaluate.second_endpoint import SecondEndpoint
from launcher.evaluate.stored_answers import Comparison, StoredAnswers
from launcher.pipeline import outcomes
from launcher.pipeline.config import ComposedRun, Run
from launcher.pipeline.evaluation import check_coverage, check_main_metrics, write_lm_eval
from launcher.pipeline.exporting import exports_of
from launcher.pipeline.judging import identity, judging
from launcher.pipeline.provenance import packages_of, provenance, resume_key
from launcher.pipeline.record import RunRecord
from launcher.pipeline.reporting import reporting
from launcher.pipeline.servers import ServerPool
from launcher.tasks.base import naming

SHOWN = 3
"""How many reasons are named why samples are not scored again."""


def score(composed: ComposedRun, allocation: Allocation, pool: ServerPool | None = None) -> int:
    """Score the answers in the folder that ``run`` names, in the run folder of ``composed``; return the exit code."""
    run, config, folder = _without_harnesses(composed.run), composed.config, composed.folder
    record = RunRecord(
        provenance(config, composed.overrides, allocation, packages_of(composed.run)), run.tasks, run.groups
    )
    with reporting(record, folder, exports=exports_of(composed.run)) as exit_status, record.step("total"):
        earlier, stored = _earlier(run, folder)
        record.endpoint = _endpoint(run, earlier, stored)
        before: Mapping[str, Json] = earlier.get("run") or {}
        record.run["checkpoint"] = before.get("checkpoint")
        record.run["answers_from"] = _answers_from(str(run.run), earlier, stored)
        if adapted := before.get("adapter_parameters"):
            record.run["adapter_parameters"] = adapted
        digest = _digest(stored.path)
        key = resume_key(run, config, before.get("checkpoint")) | identity(run, config) | {"answers_from": digest}
        _check_key(folder, key)
        lease = exit_status.lease = Lease(folder)
        _prepare(run, record.endpoint)
        count = _check_answers(run, record, stored)
        with judging(run, config, record, allocation, folder, pool) as judge:
            _rescore(run, record, stored, count, lease, key, judge)
    return exit_status.code


def _without_harnesses(run: Run) -> Run:
    """Return the run with the tasks whose answers are stored. Raises `UserError` if there are none."""
    asked = outcomes.asked(run.tasks)
    for name in run.tasks.keys() - asked.keys():
        to_stderr(f"score: {name} is left out: a harness asked it, so that its answers are not stored")
    if not asked:
        raise UserError(f"run={run.run}: harnesses asked all of its tasks; there are no answers to score again")
    members = {name: group for name, group in run.groups.items() if set(group.members) <= {*asked, *run.groups}}
    return replace(run, tasks=asked, groups=members)


def _earlier(run: Run, folder: Path) -> tuple[dict[str, Json], StoredAnswers]:
    """Return the results and the answers of the earlier run. Raises `UserError`."""
    from launcher.report import results

    place = RunFolder(Path(str(run.run)))
    if not place.samples.is_file():
        raise UserError(f"run={run.run}: there is no {RunFolder.samples} in it; expected the folder of a run")
    if place.path.resolve() == folder.resolve():
        raise ResumeError(f"hydra.run.dir={folder}: it is the folder whose answers are scored; choose another one")
    try:
        found = dict(results.read(place.path))
    except UserError:  # a run that was killed has answers and no results
        found = {}
    return found, StoredAnswers(place.path)


def _endpoint(run: Run, earlier: Mapping[str, Json], stored: StoredAnswers) -> Endpoint:
    """Return the endpoint that gave the answers, as far as it is known."""
    found: Mapping[str, Json] = earlier.get("endpoint") or {}
    first = stored.first()
    if first is None:
        raise UserError(f"run={run.run}: it has no answers")
    model = first.requests[0]["body"].get("model") or found.get("model") or run.model.name
    variable = getattr(run.backend, "api_key_env", None)
    key = os.environ.get(variable) if variable else None
    url, backend = str(found.get("url", "http://unknown/v1")), str(found.get("backend", "unknown"))
    builtin = run.backend.runs_engine
    return Endpoint(url, str(model), backend, str(found.get("engine", "unknown")), key, is_builtin=builtin)


def _answers_from(folder: str, earlier: Mapping[str, Json], stored: StoredAnswers) -> dict[str, Json]:
    """Return where the answers come from, and the values that they had there."""
    run: Mapping[str, Json] = earlier.get("run") or {}
    origin: Mapping[str, Json] = run.get("answers_from") or {}
    tasks: Mapping[str, Json] = earlier.get("tasks") or {}
    values = {
        name: {metric: found["value"] for metric, found in entry["metrics"].items()} for name, entry in tasks.items()
    }
    return {
        "folder": folder,
        "asked_at": origin.get("asked_at") or run.get("started_at"),
        "status": earlier.get("status"),
        "launcher": (run.get("versions") or {}).get("launcher"),
        "samples": len(stored),
        "values": values,
        "scored": {name: entry["coverage"].get("scored", 0) for name, entry in tasks.items()},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_key(folder: Path, key: Json) -> None:
    from launcher.evaluate import journal

    journal.check(folder, key)


def _prepare(run: Run, endpoint: Endpoint) -> None:
    """Let the tasks get what they need of the endpoint. Raises `TaskError`, also where it is gone."""
    for name, task in run.tasks.items():
        with naming(name):
            task.prepare(endpoint)


def _take_answers_of_another_task(run: Run, name: str, stored: StoredAnswers, model: str) -> None:
    """Score a task on the answers of the one that was asked the same. Raises `UserError` unless there is one."""
    from launcher.evaluate.rescore import asked_the_same

    found = asked_the_same(stored, name, run.tasks[name], run.evaluate, model)
    if len(found) != 1:
        known = ",".join(sorted(stored.tasks))
        why = f"{', '.join(found)} were asked the same" if found else "no task there was asked the same"
        raise UserError(f"tasks.{name}: {run.run} has no answers of it, and {why}; it has those of tasks=[{known}]")
    to_stderr(f"score: {name} is scored on the answers of {found[0]}, which was asked the same")
    stored.aliases[name] = found[0]


def plan(run: Run, folder: Path) -> dict[str, Json]:
    """Return what `score` would do, which asks nothing and writes nothing. Raises `UserError` as it does."""
    earlier, stored = _earlier(run, folder)
    endpoint = _endpoint(run, earlier, stored)
    _prepare(run, endpoint)
    found = _compared(run, endpoint, stored)
    return {
        "answers of": str(run.run),
        "scored again": found.same,
        "not scored again": dict(found.reasons.most_common(SHOWN)) or 0,
        "left out": found.gone,
    }


def _compared(run: Run, endpoint: Endpoint, stored: StoredAnswers) -> Comparison:
    """Compare the answers with the samples of now. Raises `UserError` for changed prompts, and without answers."""
    from launcher.evaluate import rescore

    for name in [name for name in run.tasks if name not in stored.tasks]:
        _take_answers_of_another_task(run, name, stored, endpoint.model)
    found = rescore.compare(stored, run.tasks, run.evaluate, endpoint.model)
    if found.prompts:
        task, sample = found.prompts[0].split("/", 1)
        raise UserError(
            f"tasks.{task}: {len(found.prompts)} prompts are not those that {run.run} asked (the first is of sample "
            f"{sample}); undo what changes them, or run the tasks again"
        )
    return found


def _check_answers(run: Run, record: RunRecord, stored: StoredAnswers) -> int:
    """Return how many answers are scored again, and say how many are not. Raises `UserError` as `_compared` does."""
    assert record.endpoint is not None
    found = _compared(run, record.endpoint, stored)
    asked_at = record.run["answers_from"]["asked_at"]
    to_stderr(f"score: {found.same} answers of {run.run}, asked at {asked_at or 'an unknown time'}")
    for reason, count in found.reasons.most_common(SHOWN):
        to_stderr(f"score: {count} samples are not scored again: {reason}")
    if found.gone:
        to_stderr(f"score: {found.gone} answers are left out: the tasks do not have their samples now")
    record.run["answers_from"]["not_scored_again"] = dict(found.reasons.most_common(SHOWN))
    record.run["answers_from"]["left_out"] = found.gone
    return found.same


def _rescore(
    run: Run,
    record: RunRecord,
    stored: StoredAnswers,
    count: int,
    lease: Lease,
    key: Json,
    judge: SecondEndpoint | None,
) -> None:
    """Score the answers. Raises `CoverageTooLow` as an evaluation does."""
    from launcher.evaluate import outcome
    from launcher.evaluate.progress import progress
    from launcher.evaluate.rescore import rescore
    from launcher.monitor.replicas import Replicas

    assert record.endpoint is not None
    model, display = record.endpoint.model, progress(Replicas(lambda: None))
    scoring = rescore(stored, count, run.tasks, run.evaluate, model, lease.folder, key, display, lease, judge)
    try:
        with record.step("score"):
            run_async(scoring)
    finally:
        found = outcome.read(lease.folder, run.tasks)
        record.take(found)
    write_lm_eval(run, record.endpoint, lease.folder)
    check_coverage(
        record.tasks,
        run.evaluate.min_coverage,
        found.stopped and f"{found.stopped}; continue with resume={lease.folder}",
    )
    check_main_metrics(record.tasks, run.tasks)
