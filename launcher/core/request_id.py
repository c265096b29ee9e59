"""The id of a request of a sample, which stands in the logs of everything that it passes, and in its answer."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from urllib.parse import quote

from launcher.core.types import Request

HEADER = "x-request-id"
PLAIN = "/:,;=+@()[]!$*'&"
MOST = 128
"""The longest id that servers take."""


def of(request: Request) -> str | None:
    """Return ``<task>/<id>/<repeat>/<number of the request>``; None for a request of no sample.

    Retries of a request have the same id. A long one ends with a digest.
    """
    if request.sample is None:
        return None
    id = f"{request.sample}/{request.index}"
    if id.isascii() and id.isprintable() and " " not in id and len(id) <= MOST:
        return id
    safe = quote(id, safe=PLAIN, errors="backslashreplace")
    if len(safe) <= MOST:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:16]
    return f"{safe[: MOST - len(digest) - 1]}-{digest}"


def as_uuid(request: Request) -> str | None:
    """Return a UUID that is made of `of`, the same each time, for a server that takes no other id."""
    id = of(request)
    return None if id is None else str(uuid.UUID(bytes=hashlib.sha256(id.encode()).digest()[:16], version=4))


def answered(headers: Mapping[str, str]) -> str | None:
    """Return the id that a server gave its answer; its own, where it has one, is what its operator can look up."""
    return next((value for name, value in headers.items() if name.lower() == HEADER), None) or None
