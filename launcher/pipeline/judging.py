"""The step that brings up the judge: its server, its certificate, and how the evaluation asks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from launcher.core.admission import Admission
from launcher.core.console import one_line, to_stderr
from launcher.core.errors import ValidationFailed
from launcher.core.event_loop import run_async
from launcher.core.files import storing
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Json
from launcher.distributed.allocation import Allocation
from launcher.evaluate.second_endpoint import SecondEndpoint
from launcher.monitor.health import Timing, watch
from launcher.pipeline.config import Run
from launcher.pipeline.judge import Judge, check_allocation
from launcher.pipeline.record import RunRecord
from launcher.pipeline.servers import RunningServer, ServerPool
from launcher.pipeline.serving import engine_facts
from launcher.settings.component import name_of

NAME = "judge"
"""The name by which tasks ask it."""


def identity(run: Run, config: Mapping[str, Json]) -> dict[str, Json]:
    """Return what decides the judge's verdicts, as a part of the resume key; empty if no task asks one."""
    judge = run.used_judge
    if judge is None:
        return {}
    settings = config["judge"]
    adapters = [{name: settings["adapters"][name]} for name, each in judge.adapters.items() if each.changes_answers]
    return {NAME: {**judge.identity(settings), "adapters": adapters}}


@contextmanager
def judging(
    run: Run,
    config: Mapping[str, Json],
    record: RunRecord,
    allocation: Allocation,
    folder: Path,
    pool: ServerPool | None,
) -> Iterator[SecondEndpoint | None]:
    """Yield the judge, once it has a valid certificate; None if no task asks one.

    Raises `UserError` if it cannot be served, and `ValidationFailed`.
    """
    judge = run.used_judge
    if judge is None:
        yield None
        return
    place = RunFolder(folder).judge
    with storing(place):
        place.mkdir(parents=True, exist_ok=True)
    with _serving(judge, config["judge"], record, allocation, place, pool) as server:
        timing = Timing(limit_s=judge.max_pause_s)
        with watch(server.endpoint, place, timing, run.monitor) as health:
            health.start_canary(server.endpoint)
            yield SecondEndpoint(
                NAME,
                server.endpoint,
                place,
                list(judge.adapters.values()),
                judge.concurrency,
                judge.timeout_s,
                judge.max_answer_mb,
                judge.max_pause_s,
                {NAME: record.run[NAME]} if server.endpoint.is_builtin else None,
                health,
            )


@contextmanager
def _serving(
    judge: Judge,
    config: Mapping[str, Json],
    record: RunRecord,
    allocation: Allocation,
    folder: Path,
    pool: ServerPool | None,
) -> Iterator[RunningServer]:
    check_allocation(judge, allocation)
    deployment = replace(judge.deployment(folder), admission=Admission())
    judge.plan(allocation)
    with ExitStack() as stack:
        with record.step(NAME), judge.naming_keys():
            deployment.engine.plan(deployment, allocation)
            to_stderr(f"judge: engine {name_of(deployment.engine)} · backend {name_of(judge.server)}")
            servers = pool.judges if pool is not None else stack.enter_context(ServerPool())
            server = stack.enter_context(
                servers.serve(_fingerprint(judge, config), judge.server, deployment, allocation)
            )
            checks = _validated(server, record, folder)
        record.run[NAME] = _facts(server, judge, checks)
        to_stderr(f"judge: {one_line(server.endpoint.model)} at {server.endpoint.url}, {len(checks)} checks")
        yield server


def _fingerprint(judge: Judge, config: Mapping[str, Json]) -> str:
    served = {"judge": judge.identity(config), "settings": {k: v for k, v in config.items() if k != "adapters"}}
    return f"sha256:{hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()}"


def _validated(server: RunningServer, record: RunRecord, folder: Path) -> tuple[Check, ...]:
    from launcher.settings.validate import Validate
    from launcher.validate import certificate
    from launcher.validate.check import Capability, Extent

    settings, needed = Validate(), frozenset({Capability.serving, Capability.chat})
    scope = (asdict(settings), needed)
    checks = server.copy_certificate(scope, folder)
    if checks is None:
        checks = run_async(certificate.validate(server.endpoint, settings, needed, extent=Extent.base))
        certificate.write(checks, server.endpoint, folder, needed)
        server.certificates.append((scope, folder, checks))
    if certificate.failed(checks):
        raise ValidationFailed(f"the judge failed validation: {certificate.reason(checks)}")
    server.admit()
    return checks


def _facts(server: RunningServer, judge: Judge, checks: tuple[Check, ...]) -> dict[str, Json]:
    """Return what a report says of the judge."""
    endpoint = server.endpoint
    return {
        "url": endpoint.url,
        "model": endpoint.model,
        "backend": endpoint.backend,
        "engine": endpoint.engine,
        "engine_facts": dict(engine_facts(endpoint)),
        "adapters": list(judge.adapters),
        "checks": {check.name: check.ok for check in checks},
    }
