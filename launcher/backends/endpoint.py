"""What the backends share of a server's endpoint: its URL, its key, its clients' limits, and when it is ready."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from launcher.asgi.config import FrontendConfig, Limits
from launcher.core.console import one_line
from launcher.core.errors import HttpError, ServerError
from launcher.core.http import fetch, netloc, parsed
from launcher.core.redaction import reveal
from launcher.core.responses import error_message
from launcher.core.types import Endpoint

ANSWER_S = 10.0
"""The client's deadline is this much later than the server's, whose answer says why it is not ready."""
WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""The addresses that stand for all of a machine's, and the loopback address at which this machine reaches each."""
ANY_PORT = "<any free port>"


def planned_url(host: str, port: int) -> str:
    """Return the base URL that a plan shows, with a placeholder for port 0."""
    return f"http://{netloc(host, port or ANY_PORT)}/v1"


def root_url(host: str, port: int) -> str:
    """Return the URL, without a path, at which this machine reaches a server that listens on ``host``."""
    return f"http://{netloc(WILDCARD_HOSTS.get(host, host), port)}"


def base_url(host: str, port: int) -> str:
    """Return the URL, ending in ``/v1``, at which this machine reaches a server that listens on ``host``."""
    return f"{root_url(host, port)}/v1"


class ClientSettings(Protocol):
    """The settings of a backend that concern its clients."""

    aliases: list[str]
    cors_origins: list[str]
    limits: Limits


def frontend_of(backend: ClientSettings, key: str | None) -> FrontendConfig:
    return FrontendConfig(key, tuple(backend.aliases), tuple(backend.cors_origins), backend.limits)


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
    with suppress(ValueError):
        if (message := error_message(parsed(body))) is not None:
            return one_line(message)
    return one_line(body.decode("utf-8", errors="replace"))
