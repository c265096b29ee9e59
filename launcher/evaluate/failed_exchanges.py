"""Keeps the requests and answers of the first samples that failed, as they went over the wire."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.adapters.line_writer import redacted
from launcher.core.console import one_line
from launcher.core.errors import ServerAway, StorageError
from launcher.core.files import install
from launcher.core.run_folder import RunFolder
from launcher.core.types import Handler, Json, Record, Request, Response, Status

log = logging.getLogger(__name__)

KEPT = frozenset({Status.failed, Status.refused})
MOST_EXCHANGES = 8
"""The exchanges of one sample that are written."""
MAX_CHARACTERS = 100_000
"""Characters of the JSON of a body that are written."""


@dataclass(frozen=True)
class Exchanged:
    """A request as it was sent, and what came back: an answer, or the error that says why there is none."""

    request: Request
    response: Response | None
    error: str | None

    @property
    def failed(self) -> bool:
        return self.response is None or not self.response.ok or self.response.fault is not None

    def entry(self) -> dict[str, Json]:
        sent = {"path": self.request.path, "headers": redacted(self.request.headers), "body": _cut(self.request.body)}
        if self.response is None:
            return {"sent": sent, "error": self.error}
        answer = {"status": self.response.status, "headers": redacted(self.response.headers)}
        fault = {"fault": self.response.fault} if self.response.fault is not None else {}
        return {"sent": sent, "answer": {**answer, "body": _cut(self.response.body)}, **fault}


class FailedExchanges:
    """Keeps the last exchanges of each sample until it has ended, and those of the first ``most`` that failed for good.

    Each has a file in ``failed/`` of the run folder. Where a sample is asked again and does not fail, its file goes.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = RunFolder(folder).failed, most
        self._last: dict[str, dict[int, Exchanged]] = {}
        self._files = dict(_found(self._folder))
        self._number = max((int(path.stem) for path in self._files.values()), default=0)

    def around(self, handler: Handler) -> Handler:
        """Return a handler that remembers what goes through it; it belongs behind all adapters."""

        async def handle(request: Request) -> Response:
            if not self._wanted(request.sample):
                return await handler(request)
            try:
                response = await handler(request)
            except ServerAway:  # the request is sent again
                raise
            except Exception as error:
                self._remember(request, None, f"{type(error).__name__}: {error}")
                raise
            self._remember(request, response, None)
            return response

        return handle

    def _wanted(self, sample: str | None) -> bool:
        return sample is not None and (len(self._files) < self._most or sample in self._files)

    def _remember(self, request: Request, response: Response | None, error: str | None) -> None:
        found = Exchanged(request, response, None if error is None else one_line(error))
        self._last.setdefault(str(request.sample), {})[request.index] = found

    def ended(self, record: Record) -> None:
        """Write the exchanges of a sample that failed, and forget those of any other."""
        exchanges = self._last.pop(record.key, {})
        path = self._files.get(record.key)
        try:
            if record.status not in KEPT:
                if path is not None:
                    path.unlink(missing_ok=True)
                    del self._files[record.key]
            elif path is not None or len(self._files) < self._most:
                self._write(path or self._next(record.key), record, list(exchanges.values()))
        except (OSError, StorageError) as error:
            self._most = 0
            log.error("%s; no more failed exchanges are kept", error)

    def _next(self, key: str) -> Path:
        self._number += 1
        self._files[key] = self._folder / f"{self._number:04d}.json"
        return self._files[key]

    def _write(self, path: Path, record: Record, exchanges: list[Exchanged]) -> None:
        shown = [each for each in exchanges if each.failed] or exchanges
        found = {
            "sample": record.key,
            "status": record.status.value,
            "reason": record.reason,
            "requests": [_cut(request) for request in record.requests],
            "exchanges": [each.entry() for each in shown[:MOST_EXCHANGES]],
            "scoring": [_cut(entry) for entry in record.scoring],
        }
        text = json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n"
        install(path, [text.encode("utf-8", "backslashreplace")], private=True, durable=False)


def count(folder: Path) -> int:
    """Return how many samples have a file."""
    return len(_found(RunFolder(folder).failed))


def _found(folder: Path) -> Mapping[str, Path]:
    """Return the files of earlier sessions by their sample; one that cannot be read keeps its place."""
    return {_sample(path): path for path in sorted(folder.glob("*.json")) if path.stem.isdecimal()}


def _sample(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["sample"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name


def _cut(value: Json) -> Json:
    """Return a value that is not too large to be read."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    left = len(text) - MAX_CHARACTERS
    return value if left <= 0 else f"{text[:MAX_CHARACTERS]}... ({left:,} characters are left out)"
