"""An answer is the same however the network cuts it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.core.http_connection import Connection, Incoming, Limits
from tests.core.answers import ANSWERS


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
