"""Watch an endpoint while it serves: probes of its health, which readings are made of."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from launcher.core.console import one_line
from launcher.core.errors import Failure, HttpError
from launcher.core.files import storing
from launcher.core.health import DEAD, RESTARTING, Probe
from launcher.core.http import authorization, fetch, parsed
from launcher.core.responses import error_message, error_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import GATEWAY, Endpoint, Json, Liveness, ServerState
from launcher.monitor.health_file import HealthFile
from launcher.settings.monitor import Monitor

PROBE_INTERVAL_S = 3.0
PROBE_TIMEOUT_S = 5.0
OUTAGE_LIMIT_S = 600.0
QUOTED, ENDED_QUOTED = 200, 1000
"""The most characters of a server's own error, and of the reason why its process ended (with the path of a log)."""
LAST_PROBE_WAIT_S = 0.5
"""The wait for the last probe if the one before it got no answer; Ctrl-C waits as long."""


@dataclass(frozen=True)
class Timing:
    """Seconds between probes, for one probe, and without an answer until a server counts as dead."""

    period_s: float = PROBE_INTERVAL_S
    timeout_s: float = PROBE_TIMEOUT_S
    limit_s: float = OUTAGE_LIMIT_S


class Watch:
    """Probes an endpoint and keeps its state: a `Health`.

    ``dead`` is set when the server's process has ended, when the server reports a permanent failure, or after
    ``limit_s`` seconds without an answer. A server that restarts its engine has no limit: it gives up by itself.
    ``detail`` is the answer to the last successful probe.
    """

    def __init__(self, endpoint: Endpoint, path: Path, timing: Timing, monitor: Monitor | None = None) -> None:
        self.dead = threading.Event()
        self.detail: Json = None
        self.file = HealthFile(path, endpoint, monitor or Monitor())
        self.traffic, self.note, self.start_canary = self.file.traffic, self.file.note, self.file.start_canary
        self.timing, self._endpoint = timing, endpoint
        self._state = ServerState()
        self._changed = threading.Condition()
        self._begun = 0
        self._wanted = 0
        self._stopping = False

    def state(self) -> ServerState:
        return self._state

    def request_probe(self) -> int:
        with self._changed:
            self._wanted = self._begun + 1
            self._changed.notify_all()
            return self._wanted

    def run(self) -> None:
        """Probe each period until `stop`, and at once after `request_probe`, also while the file cannot be written."""
        try:
            self._probe()
        finally:
            self.file.close()

    def _probe(self) -> None:
        while (number := self._next()) is not None:
            began, line = time.monotonic(), probe(self._endpoint, self.timing.timeout_s)
            if self._stopping and not line["live"]:
                return  # the run stops its server now: no outage
            self.record(line, number, began)
            self.file.take(line, self._state)

    def record(self, line: Probe, number: int, began: float) -> None:
        """Update the state from probe ``number``, which ``began`` at a time of `time.monotonic`."""
        liveness, before = liveness_of(line, self._endpoint), self._state
        if liveness is Liveness.live:
            self.detail = line["detail"]
            self._state = ServerState(probe=number)
            return
        row, since = (before.row + 1, before.since) if before.row else (1, began)
        reason = _reason(line["detail"], ENDED_QUOTED if line.get("ended") else QUOTED)
        self._state = ServerState(liveness, reason, number, row, since)
        late = liveness is not Liveness.restarting and time.monotonic() - since > self.timing.limit_s
        if liveness is Liveness.dead or late:
            self.dead.set()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _next(self) -> int | None:
        """Wait until the next probe is due and return its number; None after `stop`. The first probe always happens."""
        with self._changed:
            if self._begun:
                period_s = min(self.timing.period_s, self.file.period_s)
                self._changed.wait_for(lambda: self._stopping or self._wanted > self._begun, period_s)
            self._begun += 1
            return None if self._stopping and self._begun > 1 else self._begun


@contextmanager
def watch(
    endpoint: Endpoint, folder: Path, timing: Timing | None = None, monitor: Monitor | None = None
) -> Iterator[Watch]:
    """Probe ``endpoint`` in a thread, and append readings to ``folder/health.jsonl``. Raises `StorageError`."""
    path = RunFolder(folder).health
    with storing(path), path.open("a"):
        pass
    watched = Watch(endpoint, path, timing or Timing(), monitor)
    thread = threading.Thread(target=watched.run, name="health", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watched.stop()
        thread.join(LAST_PROBE_WAIT_S + (0 if watched.state().row else watched.timing.timeout_s))


def probe(endpoint: Endpoint, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask the server once: ``/health`` of a built-in server, ``/v1/models`` of any other.

    A redirect is not followed, and does not show that the server lives.
    """
    url = f"{endpoint.root}/health" if endpoint.is_builtin else f"{endpoint.url}/models"
    start = time.perf_counter()
    status, detail, failure = _get(url, endpoint.api_key, timeout_s)
    if (why := endpoint.exit_reason()) is not None:
        status, detail, failure = None, {"error": {"code": DEAD, "message": why}}, None
    live = status is not None and (status < 300 or 400 <= status < 500)
    line: Probe = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "live": live,
        "status": status,
        "latency_s": round(time.perf_counter() - start, 4),
        # Another program's answer does not have the fields of `Health`.
        "detail": detail if endpoint.is_builtin or not live else None,
    }
    if why is not None:
        line["ended"] = True
    if failure is Failure.timeout:
        line["silent"] = True
    return line


def liveness_of(line: Probe, endpoint: Endpoint) -> Liveness:
    """Return the server's state after a probe.

    Only a built-in server can report a permanent failure: another program may be started again at the same place. A
    status that gateways do not send comes from the server itself.
    """
    code = error_of(line["detail"]).get("code")
    if line.get("ended") or (code == DEAD and endpoint.is_builtin):
        return Liveness.dead
    if line["status"] is None:
        return Liveness.silent if line.get("silent") else Liveness.away
    if line["status"] not in GATEWAY:
        return Liveness.live
    return Liveness.restarting if code == RESTARTING else Liveness.away


def _get(url: str, api_key: str | None, timeout_s: float) -> tuple[int | None, Json, Failure | None]:
    try:
        answer = fetch("GET", url, timeout_s=timeout_s, headers=authorization(api_key))
    except HttpError as error:
        return None, error.reason, error.failure
    if answer.status == 200 and not url.endswith("/health"):
        return answer.status, None, None
    return answer.status, _json(answer.body), None


def _reason(detail: Json, most: int) -> str:
    """Return the error of a server on one line, without control characters."""
    return one_line(error_message(detail) or str(detail), most)


def _json(body: bytes) -> Json:
    try:
        return parsed(body)
    except ValueError:
        return body[:200].decode("utf-8", errors="replace")
