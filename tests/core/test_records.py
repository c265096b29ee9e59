from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.records import from_line, key_of, to_line
from launcher.core.types import Status
from tests.sample_records import made


def test_a_record_survives_its_line() -> None:
    before = made("t/é\n\u2028/0".replace("/0", "") + "/0", responses=({"text": "half \ud83d pair \x85"},), reason="x")
    line = to_line(before)
    assert from_line(line) == before
    assert line.count(b"\n") == 1
    assert "é".encode() in line


@given(st.text(), st.text(), st.integers(0, 10**6))
def test_the_key_is_read_from_the_beginning_of_a_line(task: str, name: str, repeat: int) -> None:
    record = replace(made("t/a/0"), task=task, id=name, repeat=repeat)
    line = to_line(record)
    assert key_of(line) == from_line(line).key == record.key
    assert key_of(line[: line.index(b'"request"')] + b"damaged") == record.key


def test_the_key_of_a_line_that_another_program_wrote() -> None:
    line = to_line(made("t/a/0"))
    for other in (
        json.dumps(dict(reversed(json.loads(line).items()))),
        json.dumps(json.loads(line), separators=(",", ":")),
    ):
        assert key_of(other.encode()) == "t/a/0"
    with pytest.raises(ValueError, match="not a sample's record"):
        key_of(b'{"task": "t", "id": 1}')


def test_several_requests_are_lists() -> None:
    before = made(requests=({"path": "/a"}, {"path": "/b"}), responses=({"text": "a"}, None), scoring=({"x": 1},))
    line = json.loads(to_line(before))
    assert (line["request"], line["response"]) == ([{"path": "/a"}, {"path": "/b"}], [{"text": "a"}, None])
    assert from_line(to_line(before)) == before


def test_a_list_as_the_answer_to_one_request_stays_one_answer() -> None:
    before = made(responses=([1, 2],))
    assert from_line(to_line(before)) == before


def test_each_request_of_a_line_needs_a_response() -> None:
    line = json.loads(to_line(made(requests=({}, {}), responses=(None, None)))) | {"response": [None]}
    with pytest.raises(ValueError, match="each request needs a response"):
        from_line(json.dumps(line).encode())


def test_the_line_has_the_fields_of_the_contract() -> None:
    assert list(json.loads(to_line(made(status=Status.failed)))) == [
        "task", "id", "repeat", "request", "response", "prediction", "target", "scores", "status", "usage", "latency_s",
        "reason",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", 1, "id must be a text"),
        ("repeat", "0", "repeat must be a whole number"),
        ("scores", None, "scores must be an object"),
        ("latency_s", "1", "latency_s must be a number"),
        ("reason", ["gone"], "reason must be a text or null"),
        ("notes", None, "notes must be a list"),
        ("notes", [1], "notes must be texts"),
        ("scoring", 5, "scoring must be a list"),
    ],
)
def test_a_field_of_another_type_is_damage(field: str, value: object, words: str) -> None:
    line = json.loads(to_line(made())) | {field: value}
    with pytest.raises(ValueError, match=f"not a sample's record: {words}"):
        from_line(json.dumps(line).encode())


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"task": "t"}'])
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        from_line(line)
