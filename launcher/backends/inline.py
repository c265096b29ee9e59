"""The engine in this process, behind HTTP in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import ClassVar, Protocol

from launcher.api.front import Front, Limits, check_aliases, check_origins
from launcher.backends.base import Backend, check_ports, check_seconds, fits
from launcher.core.console import one_line
from launcher.core.errors import ServerError
from launcher.core.http import HttpError, fetch, netloc, parsed
from launcher.core.redaction import reveal
from launcher.core.run_folder import RunFolder
from launcher.core.types import Endpoint, Json, error_of
from launcher.distributed.allocation import Allocation
from launcher.engines.base import Deployment
from launcher.settings.cluster import Spread
from launcher.settings.component import component, name_of

ANSWER_S = 10.0
"""So much longer may an answer take, whose reason says more than that there was none."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where this machine reaches a server that listens on all of its addresses."""


@component("backend/inline")
class Inline(Backend):
    """Serves from this process. ``port`` 0 is any free one; ``api_key_env`` names the variable that holds the key.

    The model has the further names ``aliases``, for clients that insist on one. Pages from ``cors_origins`` may call it
    from a browser (``*``: any page). ``limits`` bound what a client may send.

    Within ``start_timeout_s`` after loading, the engine must produce a token. On stopping, requests have
    ``stop_timeout_s`` to end.
    """

    spread: ClassVar[Spread] = Spread.model

    host: str = "127.0.0.1"
    port: int = 0
    api_key_env: str | None = None
    aliases: list[str] = field(default_factory=list)
    cors_origins: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    start_timeout_s: float = 300.0
    stop_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        check_aliases(self.aliases)
        check_origins(self.cors_origins)
        check_ports(self, "port")
        check_seconds(self, "start_timeout_s", "stop_timeout_s")

    def plan(self, deployment: Deployment, allocation: Allocation) -> dict[str, Json]:
        fits(deployment.parallelism, allocation)
        api_key(self.api_key_env)
        return {"server": f"http://{netloc(self.host, self.port or '<any free port>')}/v1"}

    @contextmanager
    def serve(self, deployment: Deployment, allocation: Allocation) -> Iterator[Endpoint]:
        from launcher.api.app import create_app
        from launcher.api.server import bind, server_log, serving

        key, path = api_key(self.api_key_env), RunFolder(deployment.folder).server_log
        d, front = deployment, front_of(self, key)
        with (
            bind(self.host, self.port) as bound,
            server_log(path) as log,
            d.engine.load(d, allocation) as runner,
            serving(
                create_app(runner, front=front, admission=d.admission, ready_timeout_s=self.start_timeout_s, log=log),
                bound,
                log,
                self.stop_timeout_s,
                front.limits,
            ),
        ):
            host, port = EVERYWHERE.get(self.host, self.host), bound.getsockname()[1]
            url = f"http://{netloc(host, port)}/v1"
            endpoint = Endpoint(url, runner.model, "inline", name_of(d.engine), key, validator_token=d.validator_token)
            wait_ready(endpoint, self.start_timeout_s, f"see {path}")
            yield endpoint


class Meets(Protocol):
    """A backend's settings of how it meets its clients."""

    aliases: list[str]
    cors_origins: list[str]
    limits: Limits


def front_of(backend: Meets, key: str | None) -> Front:
    return Front(key, tuple(backend.aliases), tuple(backend.cors_origins), backend.limits)


def api_key(variable: str | None) -> str | None:
    """Return the key that an environment variable holds. Raises `UserError` if it is not set."""
    return None if variable is None else reveal(variable, "backend.api_key_env")


def wait_ready(endpoint: Endpoint, timeout_s: float, hint: str) -> None:
    """Wait until ``/ready`` says that a token was produced. Raises `ServerError` with its reason."""
    url, headers = f"{endpoint.root}/ready", endpoint.validator_headers
    try:
        answer = fetch("GET", url, timeout_s=timeout_s + ANSWER_S, headers=headers)
    except HttpError as error:
        raise ServerError(f"the server does not answer: {error.reason}; {hint}") from None
    if answer.status != 200:
        raise ServerError(f"the server is not ready: {_reason(answer.body)}; {hint}")


def _reason(body: bytes) -> str:
    try:
        return one_line(str(error_of(parsed(body))["message"]))
    except (ValueError, KeyError):
        return one_line(body.decode("utf-8", errors="replace"))
