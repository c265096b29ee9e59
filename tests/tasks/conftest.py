"""Items on disk, and answers in the shapes of the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.core.types import Json, Response


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: Json, name: str = "items.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def completion() -> Callable[..., Response]:
    def make(text: Json, finish: str | None = "stop", **choice: Json) -> Response:
        return Response(200, {"choices": [{"index": 0, "text": text, "finish_reason": finish, **choice}]})

    return make


@pytest.fixture
def chat_answer() -> Callable[..., Response]:
    def make(content: Json, finish: str | None = "stop", **message: Json) -> Response:
        said = {"role": "assistant", "content": content, **message}
        return Response(200, {"choices": [{"index": 0, "message": said, "finish_reason": finish}]})

    return make
