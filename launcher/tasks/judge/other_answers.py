"""The answers of another run, with which a judge compares those of this run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from launcher.core.errors import ResumeError, TaskError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record, Request, Response, expanded
from launcher.tasks.answer import text_of

ASKED = ("messages", "prompt")
"""The fields of a request that say what is asked."""


class OtherAnswers:
    """The answers to the task ``task`` in the run folder ``folder``; of several repeats of an item the first.

    Raises `TaskError` if there are none.
    """

    def __init__(self, folder: str, task: str) -> None:
        self.folder, self.task = folder, task
        self._found: dict[str, Record] = {}
        path, tasks = RunFolder(expanded(folder)), set[str]()
        if not path.samples.is_file():
            raise TaskError(f"against={folder}: there is no file {path.samples}; expected a run folder")
        try:
            for record in path.records():
                tasks.add(record.task)
                if record.task == task and record.repeat == 0:
                    self._found[record.id] = record
        except ResumeError as error:
            raise TaskError(f"against={folder}: {error}") from None
        if not self._found:
            known = ", ".join(sorted(tasks)) or "none"
            raise TaskError(
                f"against={folder}: it has no answers to the task '{task}'; set against_task to one of {known}"
            )

    def answer(self, key: str, request: Request) -> str | None:
        """Return the answer to an item; None where the other run has no complete one.

        Raises `TaskError` for an item that it does not know, or has asked in other words.
        """
        record = self._found.get(key)
        if record is None:
            raise TaskError(f"against={self.folder}: it was not asked the sample '{key}' of the task '{self.task}'")
        if len(record.requests) != 1 or _asked(record.requests[0]["body"]) != _asked(request.body):
            raise TaskError(f"against={self.folder}: it was asked the sample '{key}' with another prompt")
        text = text_of(Response(200, record.responses[0]))
        return text if isinstance(text, str) and text.strip() else None


def digest(folder: str) -> str:
    """Return the SHA-256 of a run's samples. Raises `TaskError` if it has none."""
    path = RunFolder(expanded(folder)).samples
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TaskError(f"against={folder}: {path} cannot be read: {error.strerror}; expected a run folder") from None


def _asked(body: Mapping[str, Json]) -> list[Json]:
    return [body.get(name) for name in ASKED]
