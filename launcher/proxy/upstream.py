"""The endpoint as the proxy asks it: which headers go there, with which key, and how errors come back."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import NamedTuple

from launcher.asgi.errors import ApiError
from launcher.core.connections import Connections, Incoming
from launcher.core.console import one_line
from launcher.core.http_request import Origin, opening, target
from launcher.core.http_request import head as request_head
from launcher.core.responses import NOT_JSON, error_message
from launcher.core.types import Endpoint, Json
from launcher.proxy.head import Head, Headers
from launcher.proxy.settings import Authorization, Proxy

log = logging.getLogger("launcher.proxy")

LOGGED = 300
"""Characters of an error that are logged."""
MAX_ERROR_BYTES = 1 << 20
"""The largest error of the endpoint that is brought into OpenAI's shape."""


class Prepared(NamedTuple):
    """A request without its body: the URL, whom it goes to, and the bytes of its head, or of the head's opening."""

    url: str
    origin: Origin
    head: bytes


@dataclass(eq=False)
class Upstream:
    """The endpoint, and the connections to it."""

    endpoint: Endpoint
    settings: Proxy
    connections: Connections

    def __post_init__(self) -> None:
        key = self.endpoint.api_key
        self._own_key = f"Bearer {key}".encode() if key else None
        self._root = self.endpoint.root
        self.origin = target(self._root).origin
        self.max_answer_bytes = int(self.settings.max_answer_mb * 2**20)
        self.max_request_bytes = self.settings.limits.body_bytes

    def most_bytes(self, status: int) -> int:
        """Return how large an answer with a status may be."""
        return MAX_ERROR_BYTES if status >= 300 else self.max_answer_bytes

    @property
    def forwards_authorization(self) -> bool:
        return self.settings.authorization is Authorization.forward

    def authorization(self, head: Head) -> bytes | None:
        """Return what the endpoint gets as ``Authorization``."""
        if self.settings.authorization is Authorization.replace:
            return self._own_key
        return head.authorization if self.forwards_authorization else None

    def headers(self, head: Head) -> Headers:
        """Return the headers of a request that passes as it is."""
        authorization = self.authorization(head)
        return head.headers if authorization is None else [*head.headers, (b"Authorization", authorization)]

    def prepared(self, head: Head, length: int) -> Prepared | None:
        """Return what a request that passes as it is looks like; None if it cannot be sent, which `send` explains."""
        url = self._root + head.target.decode("ascii")
        try:
            to = target(url)
            return Prepared(url, to.origin, request_head(head.method, to, self.headers(head), length))
        except ValueError:
            return None

    def opened(self, path: str, headers: Headers) -> Prepared | None:
        """Return what a POST looks like up to the length of its body; None as `prepared` does."""
        url = self._root + path
        try:
            to = target(url)
            return Prepared(url, to.origin, opening("POST", to, headers))
        except ValueError:
            return None

    async def send(self, method: str, target: str, headers: Headers, body: bytes) -> Incoming:
        """Send a request to a path of the endpoint. Raises `HttpError`."""
        return await self.connections.send(
            method,
            self._root + target,
            headers,
            body,
            connect_timeout_s=self.settings.connect_timeout_s,
            silence_timeout_s=self.settings.silence_timeout_s,
        )


def error_body(status: int, data: bytes) -> Json:
    """Return an error of the endpoint in OpenAI's shape, and log it; one that has the shape stays as it is."""
    body = _shaped(status, data)
    log.warning("the endpoint answered HTTP %d: %s", status, one_line(body["error"]["message"], LOGGED))
    return body


def _shaped(status: int, data: bytes) -> Json:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), dict) and isinstance(body["error"].get("message"), str):
        return body
    said = error_message(body) or data[:300].decode(errors="replace")
    shaped = ApiError(status, f"HTTP {status}: {said}").body()
    if body is None:
        shaped["error"]["type"] = NOT_JSON
    return shaped
