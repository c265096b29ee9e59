"""The answers that an earlier run stored: which samples of now they belong to, and how they answer requests again."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from launcher.core.errors import AdapterError, ResumeError
from launcher.core.key_table import KeyTable
from launcher.core.lines import whole_lines
from launcher.core.records import from_line, key_of
from launcher.core.responses import LIMITS
from launcher.core.run_folder import RunFolder
from launcher.core.types import Handler, Json, Record, Request, Response, Sample
from launcher.evaluate.exchange import plain

PROMPTS = ("messages", "prompt")
"""The fields of a request that say what is asked; the others say how."""
MODEL = "model"
T = TypeVar("T")


class StoredAnswers:
    """The records of a run folder by their keys; only where they stand in the file is kept in memory.

    A task in ``aliases`` has the answers of another one.

    Raises `ResumeError` for a damaged line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = RunFolder(folder).samples
        self._keys = KeyTable()
        self._starts, self._lines = array("Q"), array("I")
        self._counts: Counter[str] = Counter()
        self.aliases: dict[str, str] = {}
        with self.path.open("rb") as file:
            start = 0
            for number, line in whole_lines(file):
                self._note(self._read(key_of, line, number), start, number)
                start += len(line)

    def _note(self, key: str, start: int, line: int) -> None:
        number = self._keys.add(key)
        if number == len(self._starts):
            self._starts.append(start)
            self._lines.append(line)
            self._counts[key.split("/", 1)[0]] += 1
        self._starts[number], self._lines[number] = start, line

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have answers."""
        return list(self._counts)

    def count(self, task: str) -> int:
        """Return how many answers a task has."""
        return self._counts[self.aliases.get(task, task)]

    def first(self) -> Record | None:
        """Return the record of the first sample; None without any."""
        return self._record(0) if len(self) else None

    def get(self, key: str) -> Record | None:
        """Return the last record of a sample."""
        task, rest = key.split("/", 1)
        number = self._keys.find(f"{self.aliases.get(task, task)}/{rest}")
        return None if number is None else self._record(number)

    def _record(self, number: int) -> Record:
        with self.path.open("rb") as file:
            file.seek(self._starts[number])
            return self._read(from_line, file.readline(), self._lines[number])

    def _read(self, reader: Callable[[bytes], T], line: bytes, number: int) -> T:
        try:
            return reader(line)
        except ValueError as error:
            raise ResumeError(f"{self.path}:{number}: {error}; delete this line to leave its sample out") from None


@dataclass
class Comparison:
    """How the samples of now compare with the stored answers.

    ``prompts`` are the keys of those with another prompt. ``reasons`` counts the samples that are not scored again by
    why, ``gone`` the answers to samples that the tasks do not have now.
    """

    same: int = 0
    prompts: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    gone: int = 0


def difference(sample: Sample, record: Record) -> list[str]:
    """Return the fields in which the requests of a sample differ from the stored ones, each with both values.

    A second attempt had more tokens than its sample asks for, which is no difference.
    """
    now: Json = json.loads(json.dumps([plain(request) for request in sample.requests]))
    before = list(record.requests)
    if len(now) != len(before) or any(a["path"] != b["path"] for a, b in zip(now, before, strict=True)):
        return [f"{PROMPTS[1]}: {len(before)} requests -> {len(now)}"]
    ignored = LIMITS if record.earlier else ()
    return list(
        dict.fromkeys(
            line
            for a, b in zip(before, now, strict=True)
            for name in dict.fromkeys([*a["body"], *b["body"]])
            if name not in ignored and a["body"].get(name) != b["body"].get(name)
            for line in [_changed(name, a["body"].get(name), b["body"].get(name))]
        )
    )


def _changed(name: str, before: Json, now: Json) -> str:
    return name if name in PROMPTS else f"{name}: {json.dumps(before)[:80]} -> {json.dumps(now)[:80]}"


def is_prompt(difference: str) -> bool:
    """Tell whether a difference is one of what is asked, not of how."""
    return difference.split(":", 1)[0] in PROMPTS


def is_answered(record: Record) -> bool:
    """Tell whether each request has an answer that a task can be shown."""
    return all(isinstance(body, Mapping) and body.get("choices") for body in record.responses)


def with_stored_requests(sample: Sample, record: Record) -> Sample:
    """Return the sample with its requests as they were sent."""
    requests = (
        replace(request, body=stored["body"]) for request, stored in zip(sample.requests, record.requests, strict=True)
    )
    return replace(sample, requests=tuple(requests))


def answering(record: Record, endpoint: str | None = None) -> Handler:
    """Return a handler that answers with what is stored, the requests of a scoring too.

    It raises `AdapterError` for a request of a scoring that was not sent to ``endpoint`` before.
    """

    async def handle(request: Request) -> Response:
        if endpoint is None and request.index < len(record.responses):
            return Response(200, record.responses[request.index], cached=True)
        wanted = json.loads(json.dumps(plain(request)))
        for entry in record.scoring:
            if entry["endpoint"] == endpoint and entry["request"] == wanted and isinstance(entry["response"], Mapping):
                return Response(200, entry["response"], cached=True)
        whom = "the evaluated model" if endpoint is None else f"the {endpoint}"
        raise AdapterError(f"the scoring asks {whom} what it was not asked before; its answer is not stored")

    return handle


def model_of(record: Record, endpoint: str) -> str:
    """Return the model that a scoring asked at an endpoint; empty where it asked none."""
    asked = (entry["request"]["body"] for entry in record.scoring if entry["endpoint"] == endpoint)
    return next((body[MODEL] for body in asked if isinstance(body.get(MODEL), str)), "")
