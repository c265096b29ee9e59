"""Each step of a run: what it calls, how long it took, and what it leaves in the ledger and the run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from rich.console import Console

from launcher.backends.base import check_single_process
from launcher.core import files
from launcher.core.admission import Admission
from launcher.core.console import one_line, to_stderr
from launcher.core.errors import (
    CoverageTooLow,
    ResumeError,
    ServerError,
    StorageError,
    TakenOver,
    TransportError,
    UserError,
    ValidationFailed,
)
from launcher.core.lease import Lease
from launcher.core.redaction import redact
from launcher.core.run_folder import RunFolder
from launcher.core.types import INTERRUPTED, Check, Endpoint, Json, Liveness, Request, Status, TaskResult, resolve
from launcher.distributed.allocation import Allocation
from launcher.monitor.health import Watch
from launcher.monitor.replicas import Replicas
from launcher.pipeline.config import Mode, Run
from launcher.pipeline.record import RunRecord
from launcher.pipeline.servers import RunningServer, ServerPool
from launcher.settings.component import name_of
from launcher.tasks.base import naming

if TYPE_CHECKING:
    from launcher.validate.check import Capability

T = TypeVar("T")


class EndpointFile(TypedDict):
    """``endpoint.json``: where the endpoint is, and which process serves it."""

    url: str
    model: str
    pid: int
    ready_at: str


LOOK_S = 0.5
"""How often a server that is only kept up is looked at."""


@dataclass
class Outcome:
    """How a run ended: exit code, the report's status, the reason unless it is good, whether to report at all.

    ``claim`` is that to the run folder, from the moment on when the run writes to it.
    """

    code: int = 0
    status: str = "ok"
    reason: str | None = None
    publish: bool = True
    claim: Lease | None = None

    def end(self, code: int, status: str, reason: BaseException | str) -> None:
        self.code, self.status, self.reason = code, status, redact(str(reason))
        to_stderr(f"launcher: {self.reason}")


def continued(run: Run, folder: Path, answers: Json) -> None:
    """Refuse, before anything is touched, a folder whose samples were asked in another way. Raises `ResumeError`."""
    from launcher.evaluate import journal

    if run.resume is not None or run.mode is Mode.run:
        journal.check(folder, answers)


@contextmanager
def reported(ledger: RunRecord, folder: Path) -> Iterator[Outcome]:
    """Turn how the run ends into an exit code and a report; a crash is reported too, and raised again.

    The report starts with what earlier sessions of a resumed run left.
    """
    from launcher.evaluate.outcome import read

    outcome, before = Outcome(), read(folder)
    ledger.tasks, ledger.throughput, ledger.pauses = before.tasks, before.throughput, before.pauses
    try:
        yield outcome
        if outcome.claim is not None:
            outcome.claim.check()
    except ValidationFailed as error:
        outcome.end(error.exit_code, "invalid", error)
    except CoverageTooLow as error:
        outcome.end(error.exit_code, "incomplete", error)
    except ResumeError as error:  # the folder holds another run's results: nothing in it is touched
        outcome.end(error.exit_code, "error", error)
        outcome.publish = False
    except TakenOver:
        outcome.publish = False
        raise
    except StorageError as error:
        outcome.end(error.exit_code, "error", f"{error}; continue with resume={folder}")
    except UserError as error:
        outcome.end(error.exit_code, "error", error)
    except KeyboardInterrupt:
        outcome.end(INTERRUPTED, "interrupted", f"interrupted; continue with resume={folder}")
    except BaseException as error:
        outcome.end(1, "error", f"{type(error).__name__}: {error}")
        raise
    finally:
        if outcome.publish and (outcome.claim is None or outcome.claim.holds):
            _published(ledger, outcome, folder)


def _published(ledger: RunRecord, outcome: Outcome, folder: Path) -> None:
    """Publish the report; where the disk takes none, the run ends with that, unless it has ended so already."""
    try:
        publish(ledger, outcome, folder)
    except StorageError as error:
        if outcome.status != "error":
            outcome.end(error.exit_code, "error", f"{error}; continue with resume={folder}")


@contextmanager
def serving(
    run: Run, ledger: RunRecord, allocation: Allocation, folder: Path, shared: ServerPool | None
) -> Iterator[RunningServer]:
    """Bring the server up, or take the shared one; until `validate`, one of ours answers only the launcher."""
    deployment = replace(run.deployment(folder), admission=Admission())
    check_single_process(run.backend, allocation)
    run.engine.plan(deployment, allocation)
    run.backend.plan(deployment, allocation)
    with ExitStack() as stack:
        tell(f"serve: {run.model.name} · engine {name_of(run.engine)} · backend {name_of(run.backend)}")
        with ledger.step("serve"):
            deployments = shared or stack.enter_context(ServerPool())
            served: dict[str, Json] = ledger.run["deployment"]
            server = stack.enter_context(deployments.serve(served["fingerprint"], run.backend, deployment, allocation))
        served["shared"] = server.folder != folder
        if served["shared"]:
            tell(f"serve: the server of {server.folder} is still up")
        ledger.endpoint, ledger.engine = server.endpoint, engine_facts(server.endpoint)
        if ledger.engine.get("taken"):
            tell(f"serve: engine={ledger.engine['taken']} was taken: {ledger.engine['taken_because']}")
        for line in [*in_vain(ledger.engine), *ledger.engine.get("notes", ())]:
            tell(f"serve: {line}")
        yield server
        with suppress(TransportError):  # the results are there; what its engine counted is lost with a server that left
            ledger.engine = engine_facts(server.endpoint)


def tell(line: str) -> None:
    """Say on standard error how far the run is."""
    to_stderr(line)


def engine_facts(endpoint: Endpoint) -> Mapping[str, Json]:
    """Ask one of our own servers what its engine is: parameters, dtype, layout, optimizations as resolved."""
    from launcher.core.client import Client

    async def ask() -> Json:
        async with Client(endpoint, timeout_s=30) as client:
            return (await client.get(f"{endpoint.root}/engine")).body

    return dict(run_async(ask())) if endpoint.is_builtin else {}


def in_vain(engine: Mapping[str, Json]) -> list[str]:
    """Return a line for every optimization that was asked for and is not active: nobody should measure without it."""
    resolved: Mapping[str, Json] = engine.get("optimizations") or {}
    return [
        f"optimizations.{name} is not active: {found['reason']}"
        for name, found in resolved.items()
        if found["asked"] and not found["active"]
    ]


@contextmanager
def announced(endpoint: Endpoint, folder: Path) -> Iterator[None]:
    """Keep ``endpoint.json`` in the run folder while the endpoint is up."""
    file = RunFolder(folder).endpoint
    ready_at = datetime.now(UTC).isoformat()
    facts = EndpointFile(url=endpoint.url, model=endpoint.model, pid=os.getpid(), ready_at=ready_at)
    ours = files.install(file, json.dumps(facts) + "\n")
    try:
        yield
    finally:
        if files.identity(file) == ours:  # not that of a session that took the run over
            file.unlink(missing_ok=True)


def needs(run: Run) -> frozenset[Capability]:
    """Read the first sample of each task, before anything is loaded: what must the server be able to do for it?

    Raises `TaskError` for items that cannot be read.
    """
    from launcher.validate import certificate

    first: list[Request] = []
    for name, task in run.tasks.items():
        with naming(name):
            first += [r for sample in islice(task.samples(name, run.model.name), 1) for r in sample.requests]
    return certificate.needs(first)


def validate(run: Run, server: RunningServer, needed: frozenset[Capability], ledger: RunRecord, folder: Path) -> None:
    """Check the endpoint, write the certificate, and let everybody ask a server that has a valid one.

    A server that an earlier run shares is asked again only where that run's settings or needs were other ones. Raises
    `ValidationFailed` naming every failed check.
    """
    from launcher.validate import certificate

    with ledger.step("validate"):
        ledger.checks = _checked(run, server, needed, folder, _vocabulary(run, ledger))
    failed = certificate.failed(ledger.checks)
    tell(f"validate: {len(ledger.checks)} checks, {len(failed)} failed")
    if failed:
        raise ValidationFailed("the endpoint failed validation: " + "; ".join(f"{c.name}: {c.detail}" for c in failed))
    server.admit()


def _vocabulary(run: Run, ledger: RunRecord) -> Path | None:
    """Return where the files of the served tokenizer are; None for a model without files, or where none is read."""
    if ledger.run["checkpoint"] is None or not run.engine.reads_files:
        return None
    return resolve(run.model.tokenizer or run.model.path)


def _checked(
    run: Run, server: RunningServer, needed: frozenset[Capability], folder: Path, vocabulary: Path | None
) -> tuple[Check, ...]:
    from launcher.validate import certificate

    question = (asdict(run.validate), needed)
    checks = server.certificate(question, folder)
    if checks is None:
        found = run_async(certificate.validate(server.endpoint, run.validate, needed, vocabulary))
        checks = tuple(replace(check, detail=redact(check.detail)) for check in found)
        certificate.write(checks, server.endpoint, folder)
        server.certificates.append((question, folder, checks))
    return checks


def stay(endpoint: Endpoint, health: Watch) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises `ServerError` if the server dies first."""
    try:
        print(f"serving {one_line(endpoint.model)} at {endpoint.url} (Ctrl-C ends it)", flush=True)
        _tell_outages(health)
    except KeyboardInterrupt:
        return
    raise ServerError(f"the server at {endpoint.url} does not answer any more: {health.state().reason}")


def _tell_outages(health: Watch) -> None:
    """Say when the server goes away and when it is back, until it is dead."""
    away = False
    while not health.dead.wait(LOOK_S):
        state = health.state()
        if away is (state.liveness is Liveness.live):
            away = not away
            tell(f"serve: {state.explanation}")


def evaluate(run: Run, endpoint: Endpoint, ledger: RunRecord, claim: Lease, answers: Json, health: Watch) -> None:
    """Ask every sample and summarise what came back, also when interrupted.

    Raises `CoverageTooLow` if too little was scored, or if the server died on the way; `TakenOver`.
    """
    from launcher.evaluate import evaluator, outcome
    from launcher.evaluate.progress import progress

    adapters, folder, shown = list(run.adapters.values()), claim.folder, progress(Replicas(lambda: health.detail))
    known = deployed(ledger, endpoint)
    ask = evaluator.evaluate(endpoint, run.tasks, adapters, run.evaluate, folder, answers, shown, claim, known, health)
    try:
        with ledger.step("evaluate"):
            run_async(ask)
    finally:
        found = outcome.read(folder)
        ledger.tasks, ledger.throughput, ledger.pauses = found.tasks, found.throughput, found.pauses
    stopped = found.stopped and f"{found.stopped}; continue with resume={folder}"
    enough(ledger.tasks, run.evaluate.min_coverage, stopped)


def deployed(ledger: RunRecord, endpoint: Endpoint) -> Mapping[str, Json] | None:
    """Return what decides how this server answers; None for one that has loaded nobody knows what."""
    made = ledger.run
    if not endpoint.is_builtin and made["checkpoint"] is None:
        return None
    engine = {name: ledger.engine.get(name) for name in ("device", "dtype", "optimizations")}
    facts = {name: made[name] for name in ("versions", "git_commit")}
    return facts | {"fingerprint": made["deployment"]["fingerprint"], "engine": engine}


def enough(tasks: Mapping[str, TaskResult], floor: float, stopped: str | None) -> None:
    """Raise `CoverageTooLow` for tasks of which less than ``floor`` was scored, or if asking ``stopped`` early."""
    if stopped:
        raise CoverageTooLow(stopped)
    short = [
        f"{name}: {_shortfall(result.coverage)}" for name, result in tasks.items() if _coverage(result.coverage) < floor
    ]
    if short:
        raise CoverageTooLow(f"fewer than min_coverage={floor:g} of the samples were scored: {'; '.join(short)}")


def _coverage(coverage: Mapping[str, int]) -> float:
    return coverage[Status.scored.value] / max(coverage["total"], 1)


def _shortfall(coverage: Mapping[str, int]) -> str:
    rest = ", ".join(f"{n} {status}" for status, n in coverage.items() if n and status not in ("scored", "total"))
    return f"{coverage['scored']} of {coverage['total']} scored ({rest})"


def run_async(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine on an event loop of its own; Ctrl-C cancels it and then raises `KeyboardInterrupt`."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def publish(ledger: RunRecord, outcome: Outcome, folder: Path) -> None:
    """Write ``results.json`` and ``report.html``; print the summary, unless one line on standard error said it all."""
    from launcher.report import page, results, terminal

    report = ledger.report(outcome.status, outcome.reason)
    results.write(report, folder)
    page.write(report, folder)
    if outcome.status != "error":
        terminal.print_report(replace(report, reason=None), folder, Console())
