"""An answer is the same however the network cuts it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.core.errors import HttpError
from launcher.core.http_connection import KNOWN, Connection, Incoming, KnownHeads, Limits
from tests.core.answers import ANSWERS, OK, TWO


class Memory(asyncio.Transport):
    """A transport without a socket, for cuts of the bytes that a socket would join."""

    closing = False

    def __init__(self) -> None:
        super().__init__({"socket": open("/dev/null", "rb")})  # noqa: SIM115  # a file number that can be polled

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize(("said", "body", "kept"), ANSWERS.values(), ids=ANSWERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_answer_is_the_same_however_its_bytes_are_cut(said, body, kept, data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8)))
    transport, idle = Memory(), list[Connection]()
    connection = Connection(Limits(), idle.append, lambda _: None)
    connection.connection_made(transport)
    answer = Incoming(connection, "GET", "http://h", 60)
    connection.ask(answer, b"", b"")
    for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
        if start < end and not transport.closing:
            connection.data_received(said[start:end])
    if not transport.closing and not idle:
        connection.connection_lost(None)
    transport.get_extra_info("socket").close()

    async def read() -> bytes:
        return await answer.read(100)

    assert asyncio.run(read()) == body
    assert answer.status in (200, 204, 304)
    assert (idle == [connection] and not transport.closing) is kept


def said_to(said: bytes, known: KnownHeads, method: str = "GET") -> tuple[Incoming, bytes, bool]:
    """Return an answer whose bytes came at once, its body, and whether the connection can take another request."""
    transport, idle = Memory(), list[Connection]()
    connection = Connection(Limits(), idle.append, lambda _: None, known)
    connection.connection_made(transport)
    answer = Incoming(connection, method, "http://h", 60)
    connection.ask(answer, b"", b"")
    connection.data_received(said)
    if not transport.closing and not idle:
        connection.connection_lost(None)
    transport.get_extra_info("socket").close()
    return answer, asyncio.run(answer.read(100)), bool(idle)


@pytest.mark.parametrize(("said", "body", "kept"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_the_same_when_its_head_came_before(said: bytes, body: bytes, kept: bool) -> None:
    known = KnownHeads()
    first, *again = [said_to(said, known) for _ in range(3)]
    assert first[1:] == (body, kept)
    for answer, *rest in again:
        assert (rest, answer.status, answer.headers) == ([body, kept], first[0].status, first[0].headers)


def test_a_head_that_came_before_belongs_to_any_body_of_its_length() -> None:
    known = KnownHeads()
    said_to(TWO, known)
    assert known.get(TWO[:-2]) is not None
    assert said_to(TWO[:-2] + b"cd", known)[1:] == (b"cd", True)
    assert said_to(TWO[:-2], known, "HEAD")[1:] == (b"", True)
    assert said_to(TWO + b"more", known)[1:] == (b"ab", False)
    with pytest.raises(HttpError, match="the server closed the connection in the middle of the answer"):
        said_to(TWO[:-1], known)


def test_heads_that_never_come_again_are_not_kept_for_a_while() -> None:
    known = KnownHeads()
    for number in range(2 * KNOWN):
        said_to(OK + b"Content-Length: 2\r\nX-Id: %d\r\n\r\nab" % number, known)
    assert said_to(TWO, known)[1:] == (b"ab", True)
    assert known.get(TWO[:-2]) is None
