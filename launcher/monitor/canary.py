"""The canary: one token, asked of the server beside an evaluation, under a deadline; no score counts it."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass

from launcher.core import exact_json
from launcher.core.console import one_line
from launcher.core.errors import HttpError
from launcher.core.http import authorization, fetch
from launcher.core.request_id import HEADER
from launcher.core.responses import error_message
from launcher.core.types import Endpoint, Json
from launcher.evaluate.breaker import plain_body

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
NO_ROUTE = (404, 405)


@dataclass(frozen=True)
class Outcome:
    """How a canary ended: after how many seconds, and why it got no answer; empty for one that got one."""

    seconds: float
    why: str = ""


class Canary:
    """Sends canaries, one at a time, from a thread; `take` returns how the last one ended."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint, self._timeout_s = endpoint, timeout_s
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self.sent = 0

    def send(self, path: str | None) -> None:
        """Send one, to the ``path`` of the evaluation's requests if there is any, unless one is on its way."""
        if self._thread is not None and self._thread.is_alive():
            return
        self.sent += 1
        self._thread = threading.Thread(target=self._ask, args=(path,), name="canary", daemon=True)
        self._thread.start()

    def take(self) -> Outcome | None:
        """Return how a canary has ended, once; None if none has since the last call."""
        found, self._outcome = self._outcome, None
        return found

    def _ask(self, path: str | None) -> None:
        start = time.monotonic()
        why = self._refusal(path) if path is not None else self._refusal(COMPLETIONS, CHAT)
        if not why and self._endpoint.is_builtin:
            why = self._unready()
        self._outcome = Outcome(round(time.monotonic() - start, 4), why)

    def _refusal(self, path: str, other: str | None = None) -> str:
        """Return why there is no answer; a refusal of this request is an answer, unless there is no such route."""
        body = exact_json.dumps({**plain_body(path, self._endpoint.model), "temperature": 0})
        try:
            answer = self._fetch("POST", path, body)
        except HttpError as error:
            return f"got no answer within {self._timeout_s:g} s ({one_line(error.reason)})"
        if answer[0] in NO_ROUTE and other is not None:
            return self._refusal(other)
        return f"got HTTP {answer[0]}{_said(answer[1])}" if answer[0] >= 500 else ""

    def _unready(self) -> str:
        """Return why the server says that it is not ready."""
        try:
            status, body = self._fetch("GET", "/ready", None)
        except HttpError as error:
            return f"got an answer, but /ready did not answer ({one_line(error.reason)})"
        return f"got an answer, but /ready says HTTP {status}{_said(body)}" if status >= 500 else ""

    def _fetch(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        headers = authorization(self._endpoint.api_key) | self._endpoint.validator_headers
        headers[HEADER] = f"canary/{self.sent}"
        url = self._endpoint.root + path
        answer = fetch(method, url, timeout_s=self._timeout_s, data=body, headers=headers)
        return answer.status, answer.body


def _said(body: bytes) -> str:
    try:
        found: Json = json.loads(body)
    except ValueError:
        return ""
    message = error_message(found)
    return f": {one_line(message)}" if message else ""
