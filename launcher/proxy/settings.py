"""How the proxy in front of an endpoint listens, and what it passes on."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import Annotated

from launcher.asgi.config import Limits
from launcher.core.errors import UserError
from launcher.core.ranges import Count, Port, Positive, Range, Seconds
from launcher.settings.component import component

Workers = Annotated[int, Range(1, 256)]
"""How many processes."""


class Authorization(Enum):
    """What the endpoint gets as ``Authorization``."""

    replace = "replace"
    """The endpoint's own key, in place of the client's."""
    forward = "forward"
    """What the client sent. The proxy has no key of its own then."""
    remove = "remove"
    """Nothing."""


@component("proxy/proxy")
class Proxy:
    """The adapters as an HTTP proxy: ``mode=proxy``, or ``port`` in front of ``mode=serve`` and ``mode=run``.

    The proxy listens on ``host`` and ``port``: 0 is any free one, null means no proxy, but for ``mode=proxy`` any free
    one. Clients send a key as ``Authorization: Bearer <key>``. ``api_key_env`` names the environment variable that
    holds it. Without that, ``require_key`` makes a new key for each run, in ``proxy.key`` of the run folder; ``false``
    asks clients for none.

    ``authorization`` says what the endpoint gets: ``replace`` sends the endpoint's own key, ``forward`` sends what the
    client sent, ``remove`` sends none. With ``forward`` the endpoint checks the key, and the proxy none.

    ``workers`` processes share the port; each has adapters of its own. Each process keeps at most
    ``upstream_connections`` to the endpoint, and bounds its clients by ``limits``. A connection to the endpoint must
    be there within ``connect_timeout_s``. The endpoint may be silent for ``silence_timeout_s``. An answer that
    adapters read has at most ``max_answer_mb`` MiB. JSON that they read may have one value for each 16 bytes of that,
    or of ``limits.body_bytes``. It may have one list or object for each 16 bytes of its own, or 65,536. At the end,
    requests have ``stop_timeout_s`` to finish.
    """

    host: str = "127.0.0.1"
    port: Port | None = None
    api_key_env: str | None = None
    require_key: bool = True
    authorization: Authorization = Authorization.replace
    workers: Workers = 1
    upstream_connections: Count = 1024
    connect_timeout_s: Seconds = 10.0
    silence_timeout_s: Seconds = 600.0
    max_answer_mb: Positive = 64.0
    stop_timeout_s: Seconds = 30.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.authorization is Authorization.forward and self.api_key_env is not None:
            raise UserError(
                f"proxy.api_key_env={self.api_key_env}: with proxy.authorization=forward the endpoint checks the key "
                "that a client sends; leave one of them out"
            )
        if self.api_key_env is not None and not self.require_key:
            raise UserError(
                f"proxy.require_key=false: proxy.api_key_env={self.api_key_env} asks for a key; leave one out"
            )
