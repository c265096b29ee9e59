"""The proxy in front of a run's endpoint: its files in the run folder."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from launcher.core import files, redaction
from launcher.core.console import to_stderr
from launcher.core.redaction import reveal
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint
from launcher.pipeline.config import Mode, Run
from launcher.pipeline.evaluation import deployment_facts
from launcher.pipeline.record import RunRecord
from launcher.proxy.settings import Authorization, Proxy
from launcher.proxy.supervisor import Mounted, Supervisor, listening, running


class ProxyFile(TypedDict):
    """``proxy.json``: where the proxy is, and the run that it belongs to."""

    url: str
    run_url: str
    run: str
    model: str
    pid: int
    ready_at: str


@contextmanager
def reserved(run: Run) -> Iterator[socket.socket | None]:
    """Reserve the address of the proxy before anything is loaded; None for a run without. Raises `UserError`."""
    if not run.has_proxy:
        yield None
        return
    with listening(run.proxy) as listener:
        yield listener


@contextmanager
def proxying(
    run: Run, listener: socket.socket | None, endpoint: Endpoint, record: RunRecord, folder: Path
) -> Iterator[Supervisor | None]:
    """Run the proxy on its socket, in front of the endpoint; None for a run without. Raises `UserError`."""
    if listener is None:
        yield None
        return
    place = RunFolder(folder)
    adapters = list(run.adapters.values())
    mounted = Mounted(endpoint, adapters, deployment_facts(record, endpoint), place.proxy_adapters, place.proxy_log)
    key = _key(run.proxy)
    with running(run.proxy, listener, mounted, key) as supervisor, _files(supervisor, endpoint, run.proxy, place):
        chain = ", ".join(run.adapters) or "none"
        to_stderr(f"proxy: {supervisor.url} · run {supervisor.run} · adapters {chain}")
        twice = [name for name, adapter in run.adapters.items() if adapter.sees_all]
        if run.mode is Mode.run and twice:
            to_stderr(f"proxy: WARNING: the evaluation and the proxy have their own {', '.join(twice)}")
        if key is not None:
            to_stderr(f"proxy: clients send the key of {run.proxy.api_key_env or place.proxy_key}")
        yield supervisor


def _key(settings: Proxy) -> str | None:
    """Return the key that clients send: a given one, or a new one."""
    if settings.api_key_env is not None:
        return reveal(settings.api_key_env, "proxy.api_key_env")
    if not settings.require_key or settings.authorization is Authorization.forward:
        return None
    return secrets.token_urlsafe(32)


@contextmanager
def _files(supervisor: Supervisor, endpoint: Endpoint, settings: Proxy, place: RunFolder) -> Iterator[None]:
    """Keep ``proxy.json``, and ``proxy.key`` for a key that was made here, while the proxy runs."""
    ready_at = datetime.now(UTC).isoformat()
    facts = ProxyFile(
        url=supervisor.url, run_url=supervisor.run_url, run=supervisor.run, model=endpoint.model, pid=os.getpid(),
        ready_at=ready_at,
    )  # fmt: skip
    written = {}
    if supervisor.key is not None:
        if settings.api_key_env is None:
            written[place.proxy_key] = files.install(place.proxy_key, supervisor.key + "\n", private=True)
        redaction.hide(supervisor.key, "proxy key")
    written[place.proxy] = files.install(place.proxy, json.dumps(facts) + "\n")
    try:
        yield
    finally:
        for path, identity in written.items():
            if files.identity(path) == identity:  # not that of a session that took the run over
                path.unlink(missing_ok=True)
