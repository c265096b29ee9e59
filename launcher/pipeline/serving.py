"""The step that serves: bring the server up, say where it is, and keep it up for ``mode=serve``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from launcher.backends.base import check_single_process
from launcher.backends.external import External
from launcher.core import files
from launcher.core.admission import Admission
from launcher.core.console import to_stderr
from launcher.core.errors import ServerError, TransportError
from launcher.core.event_loop import run_async
from launcher.core.lease import Lease
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json, Liveness, Response
from launcher.distributed.allocation import Allocation
from launcher.monitor.health import Watch
from launcher.pipeline.config import Run
from launcher.pipeline.record import RunRecord
from launcher.pipeline.servers import RunningServer, ServerPool
from launcher.proxy.supervisor import Supervisor
from launcher.settings.component import name_of

FACTS_S = 30.0
LAST_FACTS_S = 10.0
"""How long a run that ends waits for all that the server says of itself; the server may hang."""
OUTAGE_POLL_S = 0.5
"""How often ``mode=serve`` looks whether the server is still live."""
LEASE_AGE_S = 5.0
"""How often ``mode=serve`` and ``mode=proxy`` look whether the run folder is still theirs."""


class EndpointFile(TypedDict):
    """``endpoint.json``: where the endpoint is, and which process serves it."""

    url: str
    model: str
    pid: int
    ready_at: str


@contextmanager
def serving(
    run: Run, record: RunRecord, allocation: Allocation, folder: Path, pool: ServerPool | None
) -> Iterator[RunningServer]:
    """Bring the server up, or take it from the pool; until `validate`, one of ours answers only the launcher."""
    deployment = replace(run.deployment(folder), admission=Admission())
    check_single_process(run.backend, allocation)
    run.engine.plan(deployment, allocation)
    run.backend.plan(deployment, allocation)
    with ExitStack() as stack:
        to_stderr(f"serve: {_what(run)}")
        with record.step("serve"):
            servers = pool or stack.enter_context(ServerPool())
            facts: dict[str, Json] = record.run["deployment"]
            server = stack.enter_context(servers.serve(facts["fingerprint"], run.backend, deployment, allocation))
        facts["shared"] = server.folder != folder
        if facts["shared"]:
            to_stderr(f"serve: the server of {server.folder} is still up")
        record.endpoint, record.engine = server.endpoint, engine_facts(server.endpoint)
        _print_engine(record.engine)
        yield server
        with suppress(TransportError):  # the results are there; the counts of an engine whose server left are lost
            record.engine = engine_facts(server.endpoint, LAST_FACTS_S)


def _what(run: Run) -> str:
    """Say what is served, and how; a server that already runs has neither an engine nor a backend of this run."""
    if isinstance(run.backend, External):
        return f"the server at {run.backend.url} already runs"
    return f"{run.model.name} · engine {name_of(run.engine)} · backend {name_of(run.backend)}"


def _print_engine(engine: Mapping[str, Json]) -> None:
    if engine.get("taken"):
        to_stderr(f"serve: engine={engine['taken']} was taken: {engine['taken_because']}")
    for line in [*inactive_optimizations(engine), *engine.get("notes", ())]:
        to_stderr(f"serve: {line}")


def engine_facts(endpoint: Endpoint, limit_s: float = math.inf) -> Mapping[str, Json]:
    """Ask a server what its engine is: one of ours for parameters, dtype, layout and optimizations as resolved.

    A server of another program says its software, version, dtype and context, as far as it has routes for them.
    ``limit_s`` bounds all requests together. Raises `TransportError`.
    """
    import asyncio

    from launcher.core.client import Client
    from launcher.core.http import late
    from launcher.validate.facts import server_facts

    async def ask() -> Json:
        async with Client(endpoint, timeout_s=FACTS_S) as client:

            async def get(route: str) -> Response:
                return await client.get(f"{endpoint.root}{route}")

            if endpoint.is_builtin:
                return (await get("/engine")).body
            return await server_facts(get, endpoint.model, endpoint.facts)

    async def bounded() -> Json:
        try:
            async with asyncio.timeout(None if math.isinf(limit_s) else limit_s):
                return await ask()
        except TimeoutError as error:
            raise late(endpoint.root, limit_s) from error

    return dict(run_async(bounded()))


def inactive_optimizations(engine: Mapping[str, Json]) -> list[str]:
    """Return one line per requested optimization that is inactive."""
    resolved: Mapping[str, Json] = engine.get("optimizations") or {}
    return [
        f"optimizations.{name} is not active: {found['reason']}"
        for name, found in resolved.items()
        if found["asked"] and not found["active"]
    ]


@contextmanager
def endpoint_file(endpoint: Endpoint, folder: Path) -> Iterator[None]:
    """Keep ``endpoint.json`` in the run folder while the endpoint is up."""
    path = RunFolder(folder).endpoint
    ready_at = datetime.now(UTC).isoformat()
    facts = EndpointFile(url=endpoint.url, model=endpoint.model, pid=os.getpid(), ready_at=ready_at)
    identity = files.install(path, json.dumps(facts) + "\n")
    try:
        yield
    finally:
        if files.identity(path) == identity:  # not that of a session that took the run over
            path.unlink(missing_ok=True)


def serve_forever(what: str, endpoint: Endpoint, health: Watch, lease: Lease, proxy: Supervisor | None) -> None:
    """Serve until Ctrl-C or SIGTERM, and say ``what``: what is where.

    Raises `ServerError` if the server or the proxy dies first, and `TakenOver` once another session has the folder.
    """
    try:
        print(f"{what} (Ctrl-C ends it)", flush=True)
        printer = OutagePrinter(health)
        while not health.dead.wait(OUTAGE_POLL_S) and not (proxy is not None and proxy.dead.is_set()):
            printer.look()
            lease.check(LEASE_AGE_S)
    except KeyboardInterrupt:
        return
    if proxy is not None and proxy.dead.is_set():
        raise ServerError(proxy.reason)
    raise ServerError(f"the server at {endpoint.url} does not answer any more: {health.state().reason}")


class OutagePrinter:
    """Prints when the server goes away, and when it is back."""

    def __init__(self, health: Watch) -> None:
        self._health = health
        self._away = False

    def look(self) -> None:
        state = self._health.state()
        if self._away is (state.liveness is Liveness.live):
            self._away = not self._away
            to_stderr(f"serve: {state.explanation}")
