"""A server that outlives a run: the points of a sweep that need the same one share it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from launcher.backends.base import Backend
from launcher.core.admission import Admission
from launcher.core.errors import ServerError, UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Check, Endpoint, Json
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.monitor.health import probe
from launcher.pipeline.config import Run
from launcher.settings.component import name_of


@dataclass
class RunningServer:
    """A server that is up. ``folder`` is that of the run it was brought up for, where its log is.

    ``certificates`` holds, for each scope of a validation (its settings and the needs of the run), the run folder with
    the certificate, and the checks. Before `admit` a server of ours answers only the requests that validate it.
    """

    fingerprint: str
    endpoint: Endpoint
    folder: Path
    admission: Admission | None = None
    certificates: list[tuple[Json, Path, tuple[Check, ...]]] = field(default_factory=list)

    def admit(self) -> None:
        """Open the server to all clients, once one certificate is valid; it stays open for the runs that share it."""
        if self.admission is not None:
            self.admission.open()
        self.endpoint = replace(self.endpoint, validator_token=None)

    def copy_certificate(self, scope: Json, folder: Path) -> tuple[Check, ...] | None:
        """Copy the certificate that an earlier run got for the same scope; return its checks, None without one."""
        for earlier_scope, earlier, checks in self.certificates:
            if earlier_scope == scope and earlier != folder:
                shutil.copyfile(RunFolder(earlier).certificate, RunFolder(folder).certificate)
                shutil.copyfile(RunFolder(earlier).certificate_junit, RunFolder(folder).certificate_junit)
                return checks
        return None


class ServerPool:
    """At most one server is up at a time; the next one, or leaving the context, takes it down.

    A deployment that did not start is not tried again: its fingerprint is remembered with the reason. `judges` is the
    pool of the judges, of which one may be up beside that server.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._judges: ServerPool | None = None
        self._up: RunningServer | None = None
        self._refused: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def judges(self) -> ServerPool:
        if self._judges is None:
            self._judges = ServerPool()
        return self._judges

    def close(self) -> None:
        """Take down the servers that are up."""
        try:
            self._take_down()
        finally:
            if self._judges is not None:
                self._judges.close()

    def _take_down(self) -> None:
        self._up = None
        self._stack.close()

    @contextmanager
    def serve(
        self, fingerprint: str, backend: Backend, deployment: Deployment, allocation: Allocation
    ) -> Iterator[RunningServer]:
        """Yield the server with this ``fingerprint``, started unless it is up; leaving the context keeps it up.

        ``server.log`` of ``deployment.folder`` is its log, or a link to it. Raises `UserError` as `Backend.serve` does,
        and `ServerError` for a deployment that failed to start before.
        """
        if backend.runs_engine:
            deployment.engine.check_packages(deployment.model)
        if fingerprint in self._refused:
            raise ServerError(self._refused[fingerprint])
        if self._up is None or self._up.fingerprint != fingerprint or not probe(self._up.endpoint)["live"]:
            self._take_down()
            self._up = self._start(fingerprint, backend, deployment, allocation)
        _log_of(self._up.folder, deployment.folder)
        yield self._up

    def _start(
        self, fingerprint: str, backend: Backend, deployment: Deployment, allocation: Allocation
    ) -> RunningServer:
        log = RunFolder(deployment.folder).server_log
        if log.is_symlink():  # an earlier session of this run shared another one's server
            log.unlink()
        try:
            endpoint = self._stack.enter_context(backend.serve(deployment, allocation))
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._refused[fingerprint] = reason
            raise
        return RunningServer(fingerprint, endpoint, deployment.folder, deployment.admission)


def fingerprint(run: Run, config: Mapping[str, Json], checkpoint: str | None) -> str:
    """Return ``sha256:...`` of what is served: runs with equal fingerprints can share a server.

    ``config`` is the resolved configuration that ``run`` was made of, ``checkpoint`` the fingerprint of its model.
    """
    served = {
        "engine": name_of(run.engine),
        "backend": name_of(run.backend),
        "checkpoint": checkpoint,
        "settings": {group: config[group] for group in ("model", "engine", "backend", "parallelism", "optimizations")},
    }
    return f"sha256:{hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()}"


def _log_of(server: Path, run: Path) -> None:
    """Link the server's log into a run folder; a log that an earlier session left there is kept under another name."""
    log, target = RunFolder(run).server_log, RunFolder(server).server_log
    if run == server or not target.exists():
        return
    if log.is_symlink():
        log.unlink()
    elif log.exists():
        log.rename(RunFolder(run).earlier_server_log)
    log.symlink_to(os.path.relpath(target.resolve(), run.resolve()))
