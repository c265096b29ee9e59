from __future__ import annotations

import json

import pytest

from launcher.core.records import from_line, to_line
from launcher.core.types import Status


def test_a_record_survives_its_line(record):
    before = record("t/é\n\u2028/0".replace("/0", "") + "/0", response={"text": "half \ud83d pair \x85"}, reason="x")
    line = to_line(before)
    assert from_line(line) == before
    assert line.count(b"\n") == 1
    assert "é".encode() in line


def test_the_line_has_the_fields_of_the_contract(record):
    assert list(json.loads(to_line(record(status=Status.failed)))) == [
        "task", "id", "repeat", "request", "response", "prediction", "target", "scores", "status", "usage", "latency_s",
        "reason",
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"task": "t"}'])
def test_anything_else_is_refused(line):
    with pytest.raises(ValueError, match=r".*"):
        from_line(line)
