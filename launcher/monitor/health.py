"""Watch an endpoint while it serves: one line of ``health.jsonl`` per probe."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from launcher.asgi.errors import DEAD, RESTARTING
from launcher.core.console import one_line
from launcher.core.errors import Failure
from launcher.core.http import HttpError, authorization, fetch, parsed
from launcher.core.redaction import redact
from launcher.core.responses import error_message, error_of
from launcher.core.run_folder import RunFolder
from launcher.core.types import GATEWAY, Endpoint, Json, Liveness, ServerState

PERIOD_S = 3.0
TIMEOUT_S = 5.0
"""How long a probe may take. A server that hangs is noticed by the second one that takes longer."""
LIMIT_S = 600.0
QUOTED, ENDED_QUOTED = 200, 1000
"""Characters that are kept of what a server says of itself, and of how its process ended, with the path of its log."""
STOP_S = 0.5
"""How long to wait for the last probe's end if the one before it was not answered: Ctrl-C waits for this, too."""


@dataclass(frozen=True)
class Timing:
    """Seconds: from one probe to the next, for one probe, and without an answer until a server counts as dead."""

    period_s: float = PERIOD_S
    timeout_s: float = TIMEOUT_S
    limit_s: float = LIMIT_S


class Watch:
    """The state of a watched endpoint: a `Health`.

    ``dead`` is set when the server's process has ended, when it says itself that it is broken for good, or after
    ``limit_s`` seconds without an answer. A server that restarts what died is waited for: it knows itself when to give
    up. ``detail`` is what the last probe that was answered well was told.
    """

    def __init__(self, endpoint: Endpoint, path: Path, timing: Timing) -> None:
        self.dead = threading.Event()
        self.detail: Json = None
        self.timing, self._endpoint, self._path = timing, endpoint, path
        self._state = ServerState()
        self._changed = threading.Condition()
        self._begun = 0
        self._wanted = 0
        self._stopping = False

    def state(self) -> ServerState:
        return self._state

    def look(self) -> int:
        with self._changed:
            self._wanted = self._begun + 1
            self._changed.notify_all()
            return self._wanted

    def run(self) -> None:
        """Probe until `stop`: each period, and at once when asked to."""
        with self._path.open("a") as file:
            while (number := self._next()) is not None:
                began, line = time.monotonic(), probe(self._endpoint, self.timing.timeout_s)
                if self._stopping and not line["live"]:
                    return  # a server that is stopped, too, is no outage
                file.write(redact(json.dumps(line)) + "\n")
                file.flush()
                self.record(line, number, began)

    def record(self, line: dict[str, Json], number: int, began: float) -> None:
        """Take in what probe ``number``, which ``began`` then on the clock of `time.monotonic`, has found."""
        liveness, before = liveness_of(line, self._endpoint), self._state
        if liveness is Liveness.live:
            self.detail = line["detail"]
            self._state = ServerState(probe=number)
            return
        row, since = (before.row + 1, before.since) if before.row else (1, began)
        reason = _said(line["detail"], ENDED_QUOTED if line.get("ended") else QUOTED)
        self._state = ServerState(liveness, reason, number, row, since)
        late = liveness is not Liveness.restarting and time.monotonic() - since > self.timing.limit_s
        if liveness is Liveness.dead or late:
            self.dead.set()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _next(self) -> int | None:
        """Wait for the time of the next probe; return its number, None when there is to be none. There is a first."""
        with self._changed:
            if self._begun:
                self._changed.wait_for(lambda: self._stopping or self._wanted > self._begun, self.timing.period_s)
            self._begun += 1
            return None if self._stopping and self._begun > 1 else self._begun


@contextmanager
def watch(endpoint: Endpoint, folder: Path, timing: Timing | None = None) -> Iterator[Watch]:
    """Probe ``endpoint`` from a thread of its own, into ``folder/health.jsonl``."""
    watched = Watch(endpoint, RunFolder(folder).health, timing or Timing())
    thread = threading.Thread(target=watched.run, name="health", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watched.stop()
        thread.join(STOP_S if watched.state().row else watched.timing.timeout_s + STOP_S)


def probe(endpoint: Endpoint, timeout_s: float = TIMEOUT_S) -> dict[str, Json]:
    """Ask once: ``{time, live, status, latency_s, detail}``; ``live`` says that a server answered, ``detail`` why not.

    Our own servers answer ``/health``; of any other server ``/v1/models`` is asked. A redirect is not followed, and no
    sign of life. ``silent`` is there for a server that did not answer within ``timeout_s``, ``ended`` for one whose
    process has.
    """
    url = f"{endpoint.root}/health" if endpoint.is_builtin else f"{endpoint.url}/models"
    start = time.perf_counter()
    status, detail, failure = _get(url, endpoint.api_key, timeout_s)
    if (why := endpoint.exit_reason()) is not None:
        status, detail, failure = None, {"error": {"code": DEAD, "message": why}}, None
    live = status is not None and (status < 300 or 400 <= status < 500)
    line: dict[str, Json] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "live": live,
        "status": status,
        "latency_s": round(time.perf_counter() - start, 4),
        "detail": detail
        if endpoint.is_builtin or not live
        else None,  # what others say of themselves is not in our words
    }
    found = {"ended": why is not None, "silent": failure is Failure.timeout}
    return line | {name: True for name, true in found.items() if true}


def liveness_of(line: dict[str, Json], endpoint: Endpoint) -> Liveness:
    """Return what a probe's line says of the server.

    Only our own server may say that it is dead for good: in place of another one, a new one may be started. A status
    that no gateway gives comes from a server that is there.
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


def _said(detail: Json, most: int) -> str:
    """Return what a server that does not work says of it, on one line and without control characters."""
    return one_line(error_message(detail) or str(detail), most)


def _json(body: bytes) -> Json:
    try:
        return parsed(body)
    except ValueError:
        return body[:200].decode("utf-8", errors="replace")
