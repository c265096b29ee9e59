"""The record that several tests change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from launcher.core.types import Json, Record, Status


@pytest.fixture
def record() -> Callable[..., Record]:
    def make(key: str = "t/a/0", status: Status = Status.scored, value: float = 1.0, **changes: Json) -> Record:
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

    return make
