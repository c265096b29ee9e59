"""Watch an endpoint while it serves: one line of ``health.jsonl`` per probe."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from launcher.api.errors import DEAD, RESTARTING
from launcher.core import Endpoint, Json, error_of
from launcher.http import HttpError, authorization, fetch, parsed

PERIOD_S = 3.0
TIMEOUT_S = 10.0
STRIKES = 5


class Watch:
    """The state of a watched endpoint.

    ``dead`` is set when the server says that its engine is, or after `STRIKES` probes in a row without an answer. A
    server that restarts what died is waited for: it knows itself when to give up. ``reason`` is what the last probe
    that failed was told, ``detail`` what the last one that did not was.
    """

    def __init__(self) -> None:
        self.dead = threading.Event()
        self.reason = ""
        self.detail: Json = None
        self._stop = threading.Event()
        self._misses = 0

    def record(self, line: dict[str, Json]) -> None:
        code = _code(line["detail"])
        if line["live"]:
            self.detail = line["detail"]
        else:
            self.reason = _said(line["detail"])
        self._misses = 0 if line["live"] or code == RESTARTING else self._misses + 1
        if code == DEAD or self._misses >= STRIKES:
            self.dead.set()

    def run(self, endpoint: Endpoint, path: Path) -> None:
        with path.open("a") as file:
            while True:
                line = probe(endpoint)
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.record(line)
                if self._stop.wait(PERIOD_S):
                    return

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def watch(endpoint: Endpoint, folder: Path) -> Iterator[Watch]:
    """Probe ``endpoint`` every `PERIOD_S` seconds from a thread of its own, into ``folder/health.jsonl``."""
    watched = Watch()
    thread = threading.Thread(target=watched.run, args=(endpoint, folder / "health.jsonl"), name="health", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        watched.stop()
        thread.join(TIMEOUT_S + 1)


def probe(endpoint: Endpoint) -> dict[str, Json]:
    """Ask once: ``{time, live, status, latency_s, detail}``; ``live`` says that a server answered, ``detail`` why not.

    Our own servers answer ``/health``; of any other server ``/v1/models`` is asked. A redirect is not followed, and no
    sign of life.
    """
    url = f"{endpoint.root}/health" if endpoint.ours else f"{endpoint.url}/models"
    start = time.perf_counter()
    status, detail = _get(url, endpoint.api_key)
    if (why := endpoint.ended()) is not None:
        status, detail = None, {"error": {"code": DEAD, "message": why}}
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "live": status is not None and (status < 300 or 400 <= status < 500),
        "status": status,
        "latency_s": round(time.perf_counter() - start, 4),
        "detail": detail,
    }


def _get(url: str, api_key: str | None) -> tuple[int | None, Json]:
    try:
        answer = fetch("GET", url, timeout_s=TIMEOUT_S, headers=authorization(api_key))
    except HttpError as error:
        return None, error.reason
    if answer.status == 200 and not url.endswith("/health"):
        return answer.status, None
    return answer.status, _json(answer.body)


def _code(detail: Json) -> Json:
    """Return the code of an OpenAI error, or None."""
    return error_of(detail).get("code")


def _said(detail: Json) -> str:
    """Return what a server that does not work says of it."""
    return str(error_of(detail).get("message") or detail)


def _json(body: bytes) -> Json:
    try:
        return parsed(body)
    except ValueError:
        return body[:200].decode("utf-8", errors="replace")
