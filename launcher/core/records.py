"""A `Record` as one line of ``samples.jsonl``."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from launcher.core import exact_json, shared_texts
from launcher.core.types import Json, Record, Status
from launcher.core.values import changed, made

SEVERAL = {"requests": "request", "responses": "response"}
"""Fields with one entry per request. A line has the singular name; a sample with one request has the entry itself."""
OPTIONAL = ("notes", "scoring", "earlier", "spent", "cluster", "category", "request_ids")
"""Fields that a line has only where they are not empty."""
LISTS = ("notes", "scoring", "earlier", "request_ids")
"""Those of them that are lists."""
ABSENT: dict[str, Json] = {**dict.fromkeys(OPTIONAL), **dict.fromkeys(LISTS, ())}
"""The values of those fields in a record whose line lacks them."""
SHARED = "shared"
"""What the prompts and the texts of a line have in common, which stands here alone."""
PLACES = {SEVERAL.get(field.name, field.name): field.name for field in fields(Record)}
"""The names in a line, and the fields that they stand for."""
NAMES = set(PLACES)

KINDS: dict[str, tuple[Any, str]] = {
    "task": (str, "a text"),
    "id": (str, "a text"),
    "repeat": (int, "a whole number"),
    "scores": (dict, "an object"),
    "latency_s": ((int, float), "a number"),
    "reason": ((str, type(None)), "a text or null"),
    "notes": (list, "a list"),
    "scoring": (list, "a list"),
    "earlier": (list, "a list"),
    "spent": (dict, "an object"),
    "cluster": (str, "a text"),
    "category": (str, "a text"),
    "request_ids": (list, "a list"),
}
"""The type of each field that is not any JSON, and how a message names it."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)
_TEXT = rb'("(?:[^"\\]|\\.)*")'
_HEAD = re.compile(rb'\{"task": ' + _TEXT + rb', "id": ' + _TEXT + rb', "repeat": (\d+), ')
"""How a line begins that `to_line` wrote."""


def to_json(record: Record) -> dict[str, Json]:
    """Return the object that a line of ``samples.jsonl`` stands for."""
    values: dict[str, Json] = {name: getattr(record, field) for name, field in PLACES.items()}
    if len(record.requests) == 1:
        values |= {name: values[name][0] for name in SEVERAL.values()}
    for name in OPTIONAL:
        if not values[name]:
            del values[name]
    return values


def to_line(record: Record) -> bytes:
    """Return the record as one line of UTF-8 JSON, in which `SHARED` has what several texts begin with."""
    (requests, responses), shared = shared_texts.shortened(record.requests, record.responses)
    short = changed(record, requests=requests, responses=responses) if shared else record
    return _encoded(to_json(short) | ({SHARED: shared} if shared else {}))


def to_whole_line(record: Record) -> bytes:
    """Return the record as one line in which every text is whole."""
    return _encoded(to_json(record))


def _encoded(values: Json) -> bytes:
    """Return UTF-8 JSON; half surrogate pairs are written as JSON escapes."""
    return _ENCODER.encode(values).encode("utf-8", "backslashreplace") + b"\n"


def key_of(line: bytes) -> str:
    """Return the key of a line's record, without reading the rest of a line that `to_line` wrote.

    Raises `ValueError` as `from_line` does.
    """
    found = _HEAD.match(line)
    if found is None:
        return from_line(line).key
    task, key, repeat = found.groups()
    return f"{_text(task)}/{_text(key)}/{int(repeat)}"


def _text(quoted: bytes) -> str:
    return str(json.loads(quoted)) if b"\\" in quoted else quoted[1:-1].decode()


def from_line(line: bytes) -> Record:
    """Return the record of a line. Raises `ValueError` for anything else."""
    try:
        values = exact_json.loads(line)
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    if not isinstance(values, dict):
        raise ValueError("not a sample's record")
    shared = values.pop(SHARED, {})
    if {*OPTIONAL, *values} != NAMES or not isinstance(shared, dict):
        raise ValueError("not a sample's record")
    for name, (kind, words) in KINDS.items():
        if name in values and not isinstance(values[name], kind):
            raise ValueError(f"not a sample's record: {name} must be {words}")
    several = isinstance(values["request"], list)
    if several and not (isinstance(values["response"], list) and len(values["response"]) == len(values["request"])):
        raise ValueError("not a sample's record: each request needs a response, which may be null")
    for field, name in SEVERAL.items():
        value = values.pop(name)
        values[field] = tuple(value) if several else (value,)
    if shared:
        values["requests"], values["responses"] = shared_texts.whole(values["requests"], values["responses"], shared)
    found = {**ABSENT, **values, "status": Status(values["status"])}
    for name in LISTS:
        if name in values:
            found[name] = tuple(found[name])
    if found["notes"] and not all(isinstance(note, str) for note in found["notes"]):
        raise ValueError("not a sample's record: notes must be texts")
    return made(Record, **found)
