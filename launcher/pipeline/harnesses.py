"""The part of the evaluation that other harnesses do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.event_loop import run_async
from launcher.core.lease import Lease
from launcher.core.responses import context_length
from launcher.core.types import Endpoint, Json
from launcher.harness import run as runner
from launcher.harness import stored
from launcher.harness.access import proxied
from launcher.harness.run import Session
from launcher.monitor.health import Watch
from launcher.pipeline.config import Run
from launcher.pipeline.outcomes import harnesses
from launcher.report.formatting import task_name
from launcher.tasks.harness.base import Place

LEASE_AGE_S = 1.0
"""A harness goes on for so long after another session has taken the run over."""


def run_harnesses(
    run: Run, endpoint: Endpoint, lease: Lease, health: Watch, deployment: Mapping[str, Json] | None
) -> None:
    """Run each harness that has no result yet, one after the other.

    ``deployment`` is what adapters may know of the server. Raises `TakenOver`, and what the adapters refuse.
    """
    waiting = {name: task for name, task in harnesses(run.tasks).items() if not _finished(lease.folder, name)}
    if not waiting:
        return

    def gone() -> str | None:
        lease.check(LEASE_AGE_S)
        return health.state().explanation if health.dead.is_set() else None

    session = Session(lease.folder, gone, frozenset(run.variables()))
    length, adapters = _context_length(endpoint), list(run.adapters.values())
    for name, task in waiting.items():
        with proxied(endpoint, adapters, run.proxy, deployment, stored.folder(lease.folder, name)) as access:
            has_tokenizer = endpoint.is_builtin and access.key is None
            place = Place(access.base_url, endpoint.model, Path(), run.evaluate, has_tokenizer, length)
            runner.run(name, task, place, access, session)


def _finished(folder: Path, name: str) -> bool:
    outcome = stored.read(folder, name)
    if outcome is None or not outcome.finished:
        return False
    to_stderr(f"harness: {task_name(name)}: finished in an earlier session")
    return True


def _context_length(endpoint: Endpoint) -> int | None:
    from launcher.core.client import Client

    async def ask() -> int | None:
        async with Client(endpoint, timeout_s=30) as client:
            return context_length((await client.get(f"{endpoint.url}/models")).body, endpoint.model)

    return run_async(ask())
