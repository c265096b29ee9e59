"""A folder of answers: one file each, named by the digest of the request and its upstream."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from launcher.core.errors import StorageError, UserError
from launcher.core.files import replace
from launcher.core.redaction import redact
from launcher.core.types import Json, Request, Response

log = logging.getLogger(__name__)

CHECKED = 1
"""The generation of the checks that an answer has passed; one of an earlier generation is asked for again."""


@dataclass(frozen=True)
class CacheKey:
    """A request as it is stored beside its answer, and the SHA-256 of request, headers and upstream.

    Headers are in the digest only, since they may be secret. Of a secret only its variable's name counts, so that a key
    may be changed.
    """

    digest: str
    request: Json

    @classmethod
    def of(cls, request: Request, downstream: Json) -> Self:
        found = {"path": request.path, "body": request.body, "for": _scope(request)}
        whole = json.dumps(
            {"request": found, "headers": request.headers, "downstream": downstream}, sort_keys=True, default=str
        )
        return cls(hashlib.sha256(redact(whole).encode()).hexdigest(), json.loads(redact(json.dumps(found))))


def _scope(request: Request) -> str:
    """Return which requests may share an answer: those of one repeat; a drawn answer belongs to one request only."""
    sample = request.sample or ""
    if request.body.get("temperature") == 0:
        return sample.rpartition("/")[2]
    return f"{sample}#{request.index}" if request.index else sample


class ResponseStore:
    """Reads and writes answers. Several processes, on several hosts, may share the folder. Raises `UserError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{secrets.token_hex(8)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"adapters.caching.folder={folder}: cannot be written: {error.strerror}") from None

    def read(self, key: CacheKey) -> Response | None:
        """Return the answer with ``cached`` set, or None if there is none that can be read."""
        path = self._path(key)
        try:
            kept = json.loads(path.read_bytes())
            if kept["request"] != key.request:
                raise ValueError("it answers another request")
            if kept.get("checked") != CHECKED:
                return None  # kept before answers were checked as they are now
            events = kept["events"]
            replayed = None if events is None else _replayed(events)
            return Response(200, kept["body"], events=replayed, cached=True, notes=tuple(kept["notes"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: %s: %s; asked again", path, type(error).__name__, error)
            return None

    def write(self, key: CacheKey, response: Response, events: Sequence[Json] | None) -> None:
        """Keep a checked answer, or a whole stream; the first error is logged, and nothing more is kept then."""
        if self._broken:
            return
        path = self._path(key)
        kept = {"request": key.request, "body": response.body, "events": events}
        try:  # an entry that a crash damages is asked again
            replace(path, json.dumps(kept | {"checked": CHECKED, "notes": response.notes or ()}), durable=False)
        except StorageError as error:
            self._broken = True
            log.error("%s; no more answers are kept", error)

    def _path(self, key: CacheKey) -> Path:
        return self._folder / key.digest[:2] / f"{key.digest}.json"


async def _replayed(events: Sequence[Json]) -> AsyncIterator[Json]:
    for event in events:
        yield event
