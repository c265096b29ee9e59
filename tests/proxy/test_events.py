"""Server-sent events, however their bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.proxy.events import EventSplitter
from tests.fuzzing import examples

TEXTS = st.lists(st.text(max_size=12), max_size=5)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(min(cut, len(data)) for cut in cuts)
    splitter = EventSplitter()
    parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    return [event for part in parts for event in splitter.feed(part)]


@given(TEXTS, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 300), max_size=8), st.booleans())
@settings(max_examples=examples(60))
def test_events_are_the_same_however_they_are_cut(
    texts: list[str], end: bytes, cuts: list[int], commented: bool
) -> None:
    events = [json.dumps(text).encode() for text in texts]
    comment = b": still there" + end if commented else b""
    sent = b"".join(comment + b"event: x" + end + b"data: " + event + end + end for event in events)
    assert split(sent, cuts) == events


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"data: 1\ndata: 2\n\n", [b"1\n2"]),
        (b"data:1\n\n", [b"1"]),
        (b": a comment\n\n", []),
        (b"data: unfinished", []),
        (b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data: 1\r\rdata: [DONE]\r\r", [b"1", b"[DONE]"]),
        (b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n", [b"1", b"[DONE]"]),
    ],
)
def test_fields_of_an_event(sent: bytes, events: list[bytes]) -> None:
    assert split(sent, []) == events
    assert split(sent, list(range(len(sent)))) == events
