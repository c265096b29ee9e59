"""Events that a template passes are those that a parser would have passed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.adapters.base import Changes
from launcher.adapters.reasoning import Reasoning
from launcher.core.types import Json, Request
from launcher.proxy.edited_stream import EditedEvents
from launcher.proxy.template import template_of
from tests.fuzzing import examples

MOST = 1 << 20
PATHS = {"delta": "/v1/chat/completions", "text": "/v1/completions"}


class Parsed(Changes):
    """The same changes without a template."""

    def __init__(self, changes: Changes) -> None:
        self.change, self.end = changes.change, changes.end  # type: ignore[method-assign]


class Counted(Changes):
    """The same changes; ``alike`` counts the events that no parser has seen."""

    def __init__(self, changes: Changes) -> None:
        self.change, self.end, self._changes = changes.change, changes.end, changes  # type: ignore[method-assign]
        self.alike = 0

    def is_alike(self, text: str) -> bool:
        return self._changes.is_alike(text)

    def count_alike(self, characters: int, events: int) -> None:
        self.alike += events
        self._changes.count_alike(characters, events)


def outcome(kind: type[Parsed | Counted], adapter: Reasoning, path: str, chunks: Iterable[bytes]) -> Any:
    """Return what goes on of a stream, its error, what the adapter counted, and its changes."""
    changes = adapter.edit_events(Request(path, {}))
    assert changes is not None
    made = kind(changes)
    stream, out = EditedEvents("http://x", MOST, [made], copy=True), b""
    for chunk in chunks:
        if not stream.done and stream.error is None:
            out += stream.fed(chunk)
    try:
        stream.check()
        out += stream.rest()
        stream.check()
    except Exception as error:
        return meant(out), f"{type(error).__name__}: {error}", dict(adapter.counts), made
    return meant(out), "", dict(adapter.counts), made


def meant(data: bytes) -> list[Any]:
    texts = [part.removeprefix(b"data: ") for part in data.split(b"\n\n") if part]
    return [text if text == b"[DONE]" else json.loads(text) for text in texts]


def event(text: bytes, kind: str = "delta", more: bytes = b"", spaces: bytes = b" ") -> bytes:
    """Return an event whose text is written as it is given."""
    held = b'"text":%b"%b"' % (spaces, text)
    if kind == "delta":
        held = b'"delta":%b{"content":%b"%b"}' % (spaces, spaces, text)
    return b'data: {"id":"c","model":"m","choices":[{"index":0,%b,"finish_reason":null%b}]}\n\n' % (held, more)


TAGGED = ["<think>", "</think>", "<", "think>", "</", "[in]", "[", "(out)", "("]
NAMED = ["four", " ", "a b", "", "\u00e9", "\U0001f600", "\x00", "\u0085", "index", "c", "content", "reasoning_content"]
WRITTEN = [*(text.encode() for text in TAGGED + NAMED), b"\\n", b'\\"', b"\\u0066", b"\\", b"\xc3", b"\xa9"]
WORDS = [b"word", b" and", b"so"]
TAGS = [("<think>", "</think>"), ("[in]", "(out)")]
TEXTS = st.lists(st.sampled_from(WRITTEN) | st.sampled_from(WORDS), max_size=12)
MORE = st.sampled_from([b"", b"", b"", b',"logprobs":null', b',"logprobs":{"content":[]}'])
FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"end"},"text":"end","finish_reason":"stop"}]}\n\n'


@given(
    TEXTS,
    MORE,
    st.sampled_from(sorted(PATHS)),
    st.booleans(),
    st.sampled_from(TAGS),
    st.booleans(),
    st.lists(st.integers(0, 2000), max_size=6),
)
@settings(max_examples=examples(150), deadline=None)
def test_a_stream_is_as_if_each_event_were_parsed(
    texts: list[bytes], more: bytes, kind: str, inside: bool, tags: tuple[str, str], ends: bool, cuts: Sequence[int]
) -> None:
    data = b"".join([event(text, kind, more if number % 3 else b"") for number, text in enumerate(texts)])
    data += (FINISH + event(b"late", kind) if ends else b"") + b"data: [DONE]\n\n" + event(b"behind")
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    chunks = [data[a:b] for a, b in pairwise(places)]
    one = outcome(Counted, Reasoning(*tags, inside), PATHS[kind], chunks)
    other = outcome(Parsed, Reasoning(*tags, inside), PATHS[kind], chunks)
    assert one[:3] == other[:3]


@pytest.mark.parametrize("kind", sorted(PATHS))
@pytest.mark.parametrize("spaces", [b"", b" "])
@pytest.mark.parametrize("together", [1, 4, 100])
def test_most_events_of_reasoning_and_answer_need_no_parser(kind: str, spaces: bytes, together: int) -> None:
    words = [b"one", b" two", "drü".encode(), b" fo ur"] * 25
    texts = [b"<think>", *words, b"</think>", *words]
    events = [event(text, kind, spaces=spaces) for text in texts] + [b"data: [DONE]\n\n"]
    chunks = [b"".join(events[place : place + together]) for place in range(0, len(events), together)]
    found, error, counts, made = outcome(Counted, Reasoning(), PATHS[kind], chunks)
    assert not error
    assert made.alike > 80 if together == 100 else made.alike > 180
    assert counts["reasoning_characters"] == counts["answer_characters"] == len(b"".join(words).decode())
    assert found == outcome(Parsed, Reasoning(), PATHS[kind], chunks)[0]


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\\u0066our"}}],"x":"a\\"four"}',  # "four" ends another string
        b'{"choices":[{"delta":{"content":"four"}}],"x":"four"}',
        b'{"choices":[{"delta":{"content":"four"}},{"delta":{"content":"five"}}]}',
        b'{"choices":[{"delta":{"content":"fo\\nur"}}]}',
        b'{"choices":[{"delta":{"content":""}}]}',
        b'{"choices":[{"delta":{"content":null}}]}',
        b'{"choices":[{"delta":{"content":"four","content":"\\u0066our"}}]}',
        b'{"choices":[],"usage":{}}',
        b'["four"]',
        b'{"id":"probe","id":"z","choices":[{"delta":{"content":"\\u0070robe"}}]}',
        b'{"id":"other","id":"z","choices":[{"delta":{"content":"\\u006fther"}}]}',
        b'{"choices":[{"text":"probe","text":"\\u0070robe"}]}',
    ],
)
def test_no_template_is_made_where_the_place_of_the_text_is_not_certain(data: bytes) -> None:
    assert template_of(data, json.loads(data), data) is None


@pytest.mark.parametrize("text", ["probe", "other", "four"])
def test_any_text_has_a_template(text: str) -> None:
    data = b'{"id":"\\u0070robe","choices":[{"delta":{"content":"%b"}}]}' % text.encode()
    assert template_of(data, json.loads(data), data) is not None


def test_a_template_has_what_stands_around_the_text() -> None:
    data = b'{"choices":[{"delta":{"content":"four"}}]}'
    made: Json = template_of(data, json.loads(data), data.replace(b"content", b"reasoning"))
    chunk = b"data: " + data + b"\n\ndata: " + data.replace(b"four", b"x y") + b"\n\ndata: {}"
    texts, end = made.found(chunk)
    assert texts == [b"four", b"x y"]
    assert chunk[end:] == b"data: {}"
    assert made.made([b"a"], b"") == b'data: {"choices":[{"delta":{"reasoning":"a"}}]}\n\n'
