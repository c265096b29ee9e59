"""The socket server, with a client that acts as the model inside Triton."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.backends.pytriton import tensors
from launcher.backends.pytriton.frames import Frame, FrameDecoder, pack
from launcher.backends.pytriton.request_handler import RequestHandler, handler_in_thread
from launcher.backends.pytriton.socket_server import listening
from launcher.backends.pytriton.tensors import Arrays
from launcher.core.processes import wait_for
from launcher.engines.base import GenerationRequest, Sampling, TokenOutput
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model

GREEDY = Sampling(temperature=0)


class Asker:
    """Speaks as Triton's model does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._frames = self._read()

    def ask(self, id: int, tensors: Arrays | None = None, packed: bytes = b"", **parameters: Any) -> None:
        self._socket.sendall(pack(Frame(id, tensors or {}, json.dumps(parameters), packed)))

    def leave(self, id: int) -> None:
        self._socket.sendall(pack(Frame(id, final=True)))

    def batch(self, id: int, *generations: GenerationRequest) -> None:
        self.ask(id, packed=tensors.pack_requests(generations), feed="f")

    def next(self) -> Frame:
        return next(self._frames)

    def events(self) -> Iterator[tuple[int, str, Any]]:
        """Yield the ids of frames with what they tell of which sequence; the feed numbers its answers."""
        for count, frame in enumerate(self._frames):
            number, events = tensors.unpack(frame.packed)
            assert number == count
            for event in events:
                yield frame.id, event.id, event.what

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> Iterator[Frame]:
        frames = FrameDecoder()
        while data := self._socket.recv(1 << 16):
            yield from frames.decode(data)


@pytest.fixture
def runner() -> EchoAsyncEngine:
    return EchoAsyncEngine(Echo(tokens_per_second=200), Model("echo"))


@pytest.fixture
def served(runner: EchoAsyncEngine) -> Iterator[RequestHandler]:
    with handler_in_thread() as served, served.serving(runner):
        yield served


@pytest.fixture
def asker(served: RequestHandler, tmp_path: Path) -> Iterator[Asker]:
    with listening(served, tmp_path / "s"):
        asker = Asker(tmp_path / "s")
        yield asker
        asker.close()


def test_a_feed_carries_the_events_of_others(asker: Asker) -> None:
    asker.ask(1, feed="f")
    asker.batch(
        2,
        GenerationRequest("one", (97, 98), GREEDY),
        GenerationRequest("two", (99, 100), GREEDY),
        GenerationRequest("bad", (), GREEDY),
    )
    found: dict[str, list[int]] = {"one": [], "two": []}
    done, carriers = set(), []
    for frame, id, what in asker.events():
        carriers.append(frame)
        if isinstance(what, TokenOutput):
            found[id] += [token.token for token in what.tokens]
            done |= {id} if what.finish else set()
        else:
            assert id == "bad"
            assert "needs tokens" in str(what)
        if done == {"one", "two"}:
            break
    assert found == {"one": [97, 98, 256], "two": [99, 100, 256]}
    assert carriers[0] == 2, "the batch is answered with what is ready first"
    assert set(carriers[1:]) - {2} == {1}


def test_a_final_only_answer_has_two_messages(asker: Asker) -> None:
    asked = Sampling(temperature=0, max_tokens=20, ignore_eos=True)
    asker.ask(1, feed="f")
    asker.batch(2, GenerationRequest("one", (97, 98), asked, final_only=True))
    events = []
    for _, _, what in asker.events():
        events.append(what)
        if what.finish:
            break
    assert len(events) <= 2
    assert [t.token for event in events for t in event.tokens] == [97, 98] * 10


def test_every_batch_is_answered(asker: Asker) -> None:
    asker.ask(1, feed="f")
    for id in range(2, 12):
        asker.batch(id, GenerationRequest(f"g{id}", (97,), Sampling(temperature=0, max_tokens=1)))
    final: set[int] = set()
    while len(final) < 9:  # the last may wait for what comes next
        frame = asker.next()
        final |= {frame.id} if frame.final else set()
    assert final <= set(range(2, 12))


def test_what_is_withdrawn_frees_its_slot_or_never_starts(
    asker: Asker, served: RequestHandler, runner: EchoAsyncEngine
) -> None:
    asked = Sampling(temperature=0, max_tokens=400, ignore_eos=True)
    served.withdraw("early")
    asker.ask(1, feed="f")
    asker.batch(2, GenerationRequest("early", (97,), asked), GenerationRequest("late", (97,), asked))
    _, id, what = next(asker.events())
    assert (id, str(what)) == ("early", "the request was withdrawn")
    assert wait_for(lambda: runner.state().running == 1, 10)
    served.withdraw("late")
    assert wait_for(lambda: runner.state().running == 0, 10)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"packed": b"[]", "feed": "g"}, "feed=g: this feed is not open"),
        ({"packed": b"?", "feed": "f"}, "expected value"),
        ({"tensors": {"tokens": np.zeros(2, np.int32)}, "max_token": 1}, "max_token: unknown parameter"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(asker: Asker, asked: dict[str, Any], said: str) -> None:
    asker.ask(1, feed="f")
    asker.ask(2, **asked)
    frame = asker.next()
    assert (frame.id, frame.final) == (2, True)
    assert said in frame.text
    assert "\n" not in frame.text


def test_a_client_that_goes_away_frees_its_slot(asker: Asker, runner: EchoAsyncEngine) -> None:
    for id in (1, 2):
        asker.ask(id, {"tokens": np.array([97], np.int32)}, max_tokens=4000, ignore_eos=True)
        assert not asker.next().final
    asker.leave(1)
    asker.leave(3)  # an unknown id
    while not (frame := asker.next()).final:
        pass
    assert (frame.id, frame.text) == (1, "the client went away")
    assert wait_for(lambda: runner.state().running == 1, 10), "only the other goes on"
    assert asker.next().id == 2


def test_a_feed_without_a_reader_ends(asker: Asker) -> None:
    asker.ask(1, feed="f")
    asker.leave(1)
    frame = asker.next()
    assert (frame.id, frame.final, frame.text) == (1, True, "")
    asker.batch(2, GenerationRequest("one", (97,), GREEDY))
    assert asker.next().text == "feed=f: this feed is not open"


def test_what_a_triton_that_is_gone_has_asked_for_ends(asker: Asker, runner: EchoAsyncEngine) -> None:
    asker.ask(1, {"tokens": np.array([97], np.int32)}, ignore_eos=True, max_tokens=400)
    assert not asker.next().final
    asker.close()
    assert wait_for(lambda: runner.state().running == 0, 10)
