"""A chain that needs no coroutine gives what it gives with one."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.adapters.base import Adapter, Changes, Edit, Part
from launcher.adapters.drop_params import DropParams
from launcher.adapters.payload import Payload
from launcher.adapters.reasoning import Reasoning
from launcher.adapters.system_message import SystemMessage
from launcher.adapters.turn_limit import TurnLimit
from launcher.core.errors import AdapterError
from launcher.core.types import Handler, Json, Request, Response
from launcher.proxy import forwarder
from launcher.proxy.edited import EditedRelay
from tests.fuzzing import examples
from tests.proxy.mounted import ANSWER, DONE, Mounted, Step, Warm, scripted, stream, through, whole

PATIENCE_S = 60
PIECES = ["<think>", "</think>", "<", "<th", "ink>", "</", "four", " ", "\n", "\u00e9", "\U0001f600", "{", '"']
TEXT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@dataclass
class Plain(Adapter):
    """Changes nothing, as a coroutine: a chain with it is run as one."""

    needs_task = False
    copies = True
    reads = Part.none
    rewrites = Part.none

    async def __call__(self, request: Request, call_next: Handler) -> Response:
        return await call_next(request)


@dataclass
class InPlace(Edit):
    """Changes what it is given itself, and gives that back."""

    def edit(self, request: Request) -> Request:
        request.body["seen"] = True  # type: ignore[index]
        return request

    def edit_answer(self, request: Request, response: Response) -> Response:
        response.body["choices"][0]["message"]["content"] += "!"
        return response

    def edit_events(self, request: Request) -> Changes:
        return ChangesInPlace()


class ChangesInPlace(Changes):
    """Changes the events of a stream themselves."""

    def change(self, event: Json) -> Json:
        event["choices"][0]["delta"]["content"] += "!"
        return event

    def end(self) -> list[Json]:
        return [{"choices": [], "last": True}]


def chain() -> tuple[Adapter, ...]:
    return SystemMessage(text="Be brief."), Payload(add={"top_p": 1}, remove=["user"]), Reasoning()


@dataclass
class Pair:
    """Two proxies before one endpoint; the second runs its chain as a coroutine."""

    proxies: Sequence[Mounted]
    sent: list[Any]
    answers: list[Sequence[Step]]

    def ask(self, body: bytes, answer: Sequence[Step], path: str = "/v1/chat/completions") -> list[Any]:
        """Return what each proxy sends to the endpoint, and what its client gets."""
        found = []
        for proxy in self.proxies:
            self.answers[:] = [answer]
            self.sent.clear()
            found.append((asked(proxy, path, body), list(self.sent)))
        return found


def asked(proxy: Mounted, path: str, body: bytes) -> Any:
    with closing(http.client.HTTPConnection(*proxy.address, timeout=PATIENCE_S)) as connection:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        try:
            data, is_whole = answer.read(), True
        except http.client.IncompleteRead as error:
            data, is_whole = error.partial, False
        headers = sorted(pair for pair in answer.getheaders() if pair[0].lower() in ("content-type", "retry-after"))
        return answer.status, headers, is_whole, *meant(answer.getheader("content-type") or "", data)


def meant(kind: str, data: bytes) -> Any:
    """Return JSON and events as values: the same may be written in several ways."""
    if "event-stream" not in kind:
        return [without_id(json.loads(data))]
    texts = [part.removeprefix(b"data: ") for part in data.strip().split(b"\n\n") if part.strip()]
    return [text if text == b"[DONE]" else json.loads(text) for text in texts]


def without_id(body: Any) -> Any:
    return {k: v for k, v in body.items() if k != "id"} if isinstance(body, dict) else body


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    sent: list[Any] = []
    answers: list[Sequence[Step]] = []

    def answer(seen: Any) -> Sequence[Step]:
        sent.append((seen.line, json.loads(seen.body)))
        return answers[0]

    with ExitStack() as stack:
        server = stack.enter_context(scripted(answer))
        proxies = [stack.enter_context(through(server, Warm(each))) for each in (chain(), (*chain(), Plain()))]
        yield Pair(proxies, sent, answers)


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the answers that were changed without a coroutine."""
    made: list[Any] = []

    class Counted(EditedRelay):
        def __init__(self, *args: Any) -> None:
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(forwarder, "EditedRelay", Counted)
    return made


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXT})
CHAT = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=3) | st.just("none")},
    optional={"user": TEXT, "top_p": st.floats(0, 1), "n": st.integers(0, 2**80), "echo": st.booleans()},
)
CHOICE = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": TEXT | st.none()}, optional={"reasoning_content": TEXT | st.none()})},
    optional={"finish_reason": st.sampled_from(["stop", "length", None])},
)
BODY = st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": st.none(), "x": TEXT}) | TEXT
STATUS = st.sampled_from(["200 OK", "200 OK", "404 Not Found", "429 Too Many Requests"])


@given(CHAT, BODY, STATUS, st.booleans())
@settings(max_examples=examples(120), deadline=None)
def test_whole_answers_are_the_same(pair: Pair, body: Any, answer: Any, status: str, escaped: bool) -> None:
    data = json.dumps(answer, ensure_ascii=escaped, separators=(", ", " : ")).encode()
    one, other = pair.ask(json.dumps(body, ensure_ascii=escaped).encode(), whole(data, status, "Retry-After: 3"))
    assert one == other


DELTA = st.fixed_dictionaries({}, optional={"content": TEXT, "reasoning_content": TEXT})
PART = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "delta": DELTA}, optional={"finish_reason": st.sampled_from(["stop", "length", None])}
)
EVENT = st.fixed_dictionaries({"choices": st.lists(PART, max_size=2)}, optional={"usage": st.none()})
WRITTEN = st.sampled_from([None, 0])
"""An indented event has several lines."""


@given(st.lists(st.tuples(EVENT, WRITTEN), max_size=6), st.lists(st.integers(0, 600), max_size=4), st.booleans())
@settings(max_examples=examples(120), deadline=None)
def test_streams_are_the_same_however_they_are_cut(pair: Pair, events: Any, cuts: list[int], done: bool) -> None:
    texts = [json.dumps(event, indent=indent).replace("\n", "\ndata: ") for event, indent in events]
    data = b"".join(b"data: " + text.encode() + b"\n\n" for text in texts) + (DONE if done else b"")
    places = sorted(min(cut, len(data)) for cut in cuts)
    parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]
    body = json.dumps({"messages": [], "stream": True}).encode()
    one, other = pair.ask(body, stream(*parts))
    assert one == other


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a", "echo": True, "max_tokens": 0}),
        ("/v1/completions", {"prompt": ["a", "b"], "echo": True, "max_tokens": 5}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions?x=%31", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": ["x"]}]}),
        ("/v1/chat/completions", ["no object"]),
    ],
)
def test_what_the_chain_refuses_or_treats_otherwise_is_the_same(pair: Pair, path: str, body: Any) -> None:
    prefix = "Be brief.\n\n"
    logprobs = {"tokens": [prefix, "a"], "token_logprobs": [None, -1.0], "text_offset": [0, len(prefix)]}
    answer = {"choices": [{"index": 0, "text": f"{prefix}a", "logprobs": logprobs, "finish_reason": "length"}]}
    one, other = pair.ask(json.dumps(body).encode(), whole(answer), path)
    assert one == other


@pytest.mark.parametrize("end", ["", "?api-version=1", "?", "/", "/?a=/v1/models"])
def test_adapters_do_the_same_for_each_spelling_of_a_path(pair: Pair, end: str) -> None:
    path = f"/v1/chat/completions{end}"
    answer = {"choices": [{"index": 0, "message": {"content": "<think>a</think>four"}, "finish_reason": "stop"}]}
    event = {"choices": [{"index": 0, "delta": {"content": "<think>a</think>four"}}]}
    for body, script in (
        ({"messages": []}, whole(answer)),
        ({"messages": [], "stream": True}, stream(b"data: " + json.dumps(event).encode() + b"\n\n", DONE)),
    ):
        for (status, _, _, first, *_), sent in pair.ask(json.dumps(body).encode(), script, path):
            [choice] = first["choices"]
            assert (status, (choice.get("message") or choice["delta"])["reasoning_content"]) == (200, "a")
            [(line, got)] = sent
            assert line.split()[1] == path.rstrip("?")
            assert got["messages"] == [{"role": "system", "content": "Be brief."}]


def test_the_first_of_the_two_needs_no_coroutine(pair: Pair, edited: list[Any]) -> None:
    pair.ask(json.dumps({"messages": []}).encode(), whole(ANSWER))
    assert len(edited) == 1


def test_what_an_adapter_changes_in_place_passes_changed(edited: list[Any]) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n'
    with scripted(lambda seen: stream(event, DONE) if b"stream" in seen.body else whole(ANSWER)) as server:
        with through(server, Warm((InPlace(),))) as proxy:
            [body] = asked(proxy, "/v1/chat/completions", b'{"messages": []}')[3:]
            events = list(asked(proxy, "/v1/chat/completions", b'{"stream": true}')[3:])
        assert all(b"seen" in request.body for request in server.requests[:1])
    assert body["choices"][0]["message"]["content"] == "four!"
    assert events[0]["choices"][0]["delta"]["content"] == "four!"
    assert events[1:] == [{"choices": [], "last": True}, b"[DONE]"]
    assert len(edited) == 2


def test_an_event_that_no_adapter_changes_passes_as_its_bytes() -> None:
    event = b'data: {"choices" : [ {"index":0, "delta":{"content":"\\u0066our"}} ]}\n\n'
    body = b'{"messages": [], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with (
        scripted(lambda seen: stream(event, DONE)) as server,
        through(server, Warm(chain())) as proxy,
        socket.create_connection(proxy.address, PATIENCE_S) as client,
    ):
        client.sendall(head % len(body) + body)
        found = b"".join(iter(lambda: client.recv(65536), b""))
    assert event in found
    assert found.endswith(DONE + b"\r\n0\r\n\r\n")


@dataclass
class Late(Edit):
    """Refuses a stream at its end."""

    copies = True

    def edit_events(self, request: Request) -> Changes:
        return EndsLate()


class EndsLate(Changes):
    def end(self) -> list[Json]:
        raise AdapterError("too late")


def test_what_an_inner_adapter_held_back_comes_before_the_error_of_an_outer_one() -> None:
    """`<thi` may begin a tag, so that it leaves at the end."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"four <thi"}}]}\n\n'
    found = []
    for adapters in ((Late(), Reasoning()), (Late(), Reasoning(), Plain())):
        with scripted(lambda seen: stream(event, DONE)) as server, through(server, Warm(adapters)) as proxy:
            found.append(asked(proxy, "/v1/chat/completions", b'{"messages": [], "stream": true}'))
    assert found[0] == found[1]
    assert "".join(part["choices"][0]["delta"]["content"] for part in found[0][3:] if "choices" in part) == "four <thi"
    assert "too late" in found[0][-1]["error"]["message"]


@pytest.mark.parametrize("adapters", [Warm(chain()), (*chain(), Plain())], ids=["edited", "coroutine"])
def test_prompts_and_answers_of_long_contexts_pass(adapters: Sequence[Adapter]) -> None:
    """More values than JSON of a MiB may have: log-probabilities of an echo, in an answer and in an event."""
    many = 70_000
    logprobs = {"tokens": ["a"] * many, "token_logprobs": [-1.5] * many, "top_logprobs": None}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "stop"}
    data = json.dumps({"choices": [choice]}).encode()
    body = {"prompt": "a, [" * many, "logit_bias": {}, "ids": [12345] * many}
    answers = [stream(b"data: " + data + b"\n\n", DONE), whole(data)]
    with scripted(lambda seen: answers.pop()) as server, through(server, adapters) as proxy:
        for more in ({}, {"stream": True}):
            status, _, is_whole, found, *_ = asked(proxy, "/v1/completions", json.dumps(body | more).encode())
            assert (status, is_whole, found["choices"]) == (200, True, [choice])


@pytest.mark.parametrize("others", [(), (TurnLimit(max_turns=2),), (Plain(),), (Reasoning(),)])
def test_whole_answers_and_streams_are_counted_and_errors_are_not(others: tuple[Adapter, ...]) -> None:
    drop = DropParams(names=["user"])

    def answer(seen: Any) -> Sequence[Step]:
        asked = json.loads(seen.body)
        if asked.get("fails"):
            return whole({"error": {"message": "no"}}, "400 Bad Request")
        return stream(b'data: {"choices":[]}\n\n', DONE) if asked.get("stream") else whole(ANSWER)

    with scripted(answer) as server, through(server, Warm((drop, *others))) as proxy:
        for body in ({}, {"stream": True}, {"stream": True}, {"fails": True}, {"stream": True, "fails": True}):
            sent = json.dumps({"messages": [], "user": "me", **body}).encode()
            assert asked(proxy, "/v1/chat/completions", sent)[0] == (400 if "fails" in body else 200)
    assert drop.counts == {"user": 3}


def test_adapters_that_count_or_answer_themselves_need_no_coroutine_either(edited: list[Any]) -> None:
    drop = DropParams(names=["user", "seed"])
    turns = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    with (
        scripted(lambda seen: whole(ANSWER)) as server,
        through(server, Warm((TurnLimit(max_turns=2), drop))) as proxy,
    ):
        assert asked(proxy, "/v1/chat/completions", b'{"messages": [], "user": "me"}')[0] == 200
        assert len(edited) == 1
        status, *_, body = asked(proxy, "/v1/chat/completions", json.dumps({"messages": turns}).encode())
    assert (status, body["error"]["code"]) == (400, "turn_limit")
    assert drop.counts == {"user": 1}
    assert len(edited) == 1
    assert [json.loads(request.body) for request in server.requests[-1:]] == [{"messages": []}]
