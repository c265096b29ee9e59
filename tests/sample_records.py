"""A `Record` as an evaluation makes it, for tests of what reads and writes them."""

from __future__ import annotations

from launcher.core.types import Json, Record, Status


def made(key: str = "t/a/0", status: Status = Status.scored, value: float = 1.0, **changes: Json) -> Record:
    """Return a record; ``key`` is ``<task>/<id>/<repeat>``, ``value`` its only score."""
    task, id_, repeat = key.split("/")
    values: Json = {
        "requests": ({"path": "/v1/completions", "body": {"prompt": id_}},),
        "responses": ({"choices": []},),
        "prediction": None,
        "target": id_,
        "scores": {"acc": value} if status is Status.scored else {},
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "latency_s": 0.5,
    }
    return Record(task=task, id=id_, repeat=int(repeat), status=status, **(values | changes))
