"""A server that is already there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

from launcher.allocation import Allocation
from launcher.backends.base import Backend, Deployment, fits
from launcher.backends.inline import api_key
from launcher.component import component
from launcher.core import Endpoint, Json
from launcher.errors import ServerError, UserError


@component("backend/external")
class External(Backend):
    """Uses the OpenAI-compatible server at ``url``, which ends in ``/v1``; nothing is started, and nothing stopped.

    ``api_key_env`` names the environment variable that holds the key. ``model`` is the name to send; without it, the
    only one that the server lists. ``engine`` is what reports should call the software there. ``timeout_s`` bounds
    each of the calls that look whether the server is there.
    """

    url: str
    api_key_env: str | None = None
    model: str | None = None
    engine: str = "unknown"
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise UserError(f"backend.timeout_s={self.timeout_s}: accepted is a number of seconds above 0")

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        fits(deployment.parallelism, allocation)
        split_url(self.url)
        api_key(self.api_key_env)
        return {"server": self.url, "model": self.model or "<the only one that it lists>"}

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        key = api_key(self.api_key_env)
        status, body = self._models(key)
        model = self._choose(status, body)
        yield Endpoint(self.url.rstrip("/"), model, "external", self.engine, key)

    def _models(self, key: str | None) -> tuple[int, bytes]:
        """Ask for the list of models; any answer shows that the server is there. Raises `ServerError` without one."""
        url = split_url(self.url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            connection = _connect(url, self.timeout_s)
            try:
                connection.request("GET", f"{url.path}/models", headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"backend.url={self.url}: no server answers there: {reason}") from None

    def _choose(self, status: int, body: bytes) -> str:
        if status in (401, 403):
            hint = "no key was sent; set backend.api_key_env" if self.api_key_env is None else f"see {self.api_key_env}"
            raise UserError(f"backend.url={self.url}: the server refuses the API key (HTTP {status}); {hint}")
        if status >= 500:
            raise ServerError(f"backend.url={self.url}: /models answered HTTP {status}")
        names = _names(body) if status == 200 else None
        if self.model is not None:
            return self._listed(self.model, names)
        if names is None:
            raise UserError(f"backend.model: {self.url}/models lists no models (HTTP {status}); say which one to use")
        if len(names) != 1:
            raise UserError(f"backend.model: the server has {len(names)}, choose one of: {', '.join(names) or '-'}")
        return names[0]

    def _listed(self, model: str, names: list[str] | None) -> str:
        if names is not None and model not in names:
            raise UserError(f"backend.model={model}: not served; accepted are {', '.join(names) or 'none'}")
        return model


def split_url(url: str) -> SplitResult:
    """Return the parts of a base URL, without a slash at the end. Raises `UserError`."""
    try:
        parts = urlsplit(url.rstrip("/"))
        _ = parts.port
    except ValueError as error:
        raise UserError(f"backend.url={url}: {error}; accepted is http(s)://host[:port]/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or not parts.path.endswith("/v1"):
        raise UserError(f"backend.url={url}: accepted is http(s)://host[:port]/v1")
    return parts


def _connect(url: SplitResult, timeout_s: float) -> HTTPConnection:
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    return kind(url.hostname or "", url.port, timeout=timeout_s)


def _names(body: bytes) -> list[str] | None:
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None
