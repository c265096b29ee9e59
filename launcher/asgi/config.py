"""Settings of a server towards its clients: API key, model names, CORS origins, and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from launcher.core.errors import UserError
from launcher.core.ranges import Bytes, Count, Seconds

ANY_ORIGIN = "*"


@dataclass
class Limits:
    """Limits on connections and requests, which hold before the API key is checked.

    A request's line and headers have at most ``header_bytes`` bytes and ``headers`` headers. They must arrive within
    ``header_timeout_s`` of the start of the connection or, for a later request, of its first byte. A body has at most
    ``body_bytes`` bytes and must arrive within ``body_timeout_s`` of its headers. At most ``connections`` are open at
    a time, or fewer where the limit on open files is lower.
    """

    header_bytes: Bytes = 65_536
    headers: Count = 100
    header_timeout_s: Seconds = 30.0
    body_bytes: Bytes = 67_108_864
    body_timeout_s: Seconds = 120.0
    connections: Count = 4096


@dataclass(frozen=True)
class FrontendConfig:
    """What a server checks before the engine gets a request.

    Each request but a health check needs ``api_key``. ``aliases`` are further names of the model. Web pages of
    ``cors_origins`` may call from a browser; ``*`` means any page.
    """

    api_key: str | None = field(default=None, repr=False)
    aliases: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def check_aliases(aliases: Sequence[str]) -> None:
    """Raise `UserError` for an alias that is empty or has unprintable characters."""
    for alias in aliases:
        if not alias.strip() or not alias.isprintable():
            raise UserError(f"backend.aliases={alias!r}: must be a name of printable characters")


def check_origins(origins: Sequence[str]) -> None:
    """Raise `UserError` for an origin that no browser sends."""
    for origin in origins:
        if origin != ANY_ORIGIN and not _is_origin(origin):
            raise UserError(f"backend.cors_origins={origin}: must be '*', or scheme://host[:port] without a path")


def _is_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and origin == f"{parts.scheme}://{parts.netloc}" and "@" not in origin
