"""Writes of one turn of the event loop leave together, in order, and before the connection ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from launcher.core.errors import HttpError
from launcher.core.http_connection import Connection, Incoming, Limits
from launcher.core.write_queue import LARGE_BYTES, LateTransport, WriteQueue


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[LateTransport, socket.socket]]:
    """Yield a transport, and the other end of its connection."""
    here, there = socket.socketpair()
    there.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=here)
    try:
        yield WriteQueue().late(transport), there
    finally:
        transport.abort()
        there.close()


def arrived(there: socket.socket) -> bytes:
    """Return what has arrived by now."""
    try:
        return there.recv(1 << 20)
    except BlockingIOError:
        return b"nothing yet"


async def write_and_wait(late: LateTransport, there: socket.socket) -> None:
    late.write(b"one ")
    late.write(b"two")
    assert arrived(there) == b"nothing yet"
    assert late.get_write_buffer_size() == 7
    await asyncio.sleep(0)
    assert arrived(there) == b"one two"
    assert late.get_write_buffer_size() == 0


async def write_and_close(late: LateTransport, there: socket.socket) -> None:
    late.write(b"last")
    late.close()
    assert arrived(there) == b"last"
    await asyncio.sleep(0)
    assert arrived(there) == b""


async def write_and_end(late: LateTransport, there: socket.socket) -> None:
    late.write(b"last")
    late.write_eof()
    await asyncio.sleep(0)
    assert arrived(there) == b"last"
    assert arrived(there) == b""


async def write_and_abort(late: LateTransport, there: socket.socket) -> None:
    late.write(b"never")
    late.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert arrived(there) == b""
    assert late.held == b"never"


async def write_much(late: LateTransport, there: socket.socket) -> None:
    late.write(b"x" * (LARGE_BYTES + 1))
    assert late.held == b""
    assert arrived(there).startswith(b"xxx")


async def write_nothing(late: LateTransport, there: socket.socket) -> None:
    late.write(b"")
    await asyncio.sleep(0)
    assert arrived(there) == b"nothing yet"


@pytest.mark.parametrize(
    "use", [write_and_wait, write_and_close, write_and_end, write_and_abort, write_much, write_nothing]
)
def test_a_late_transport(use: Callable[[LateTransport, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        async with connected() as (late, there):
            await use(late, there)

    uvloop.run(run())


def test_the_transports_of_a_turn_write_in_its_order() -> None:
    async def run() -> None:
        here, there = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=here)
        write_queue = WriteQueue()
        for number in range(3):
            write_queue.late(transport).write(b"%d" % number)
        await asyncio.sleep(0)
        assert there.recv(100) == b"012"
        transport.abort()
        there.close()

    uvloop.run(run())


async def spoken_to(turns: int, then: Callable[[Connection], None]) -> tuple[Connection, Incoming, bytes]:
    """Return a connection that was asked, after some turns of the loop, and what the server got."""
    here, there = socket.socketpair()
    there.setblocking(False)
    write_queue = WriteQueue()

    def protocol() -> Connection:
        return Connection(Limits(), lambda _: None, lambda _: None, write_queue=write_queue)

    _, connection = await asyncio.get_running_loop().create_unix_connection(protocol, sock=here)
    answer = Incoming(connection, "POST", "http://h", 60)
    connection.ask(answer, b"POST / HTTP/1.1\r\n\r\n", b"")
    for _ in range(turns):
        await asyncio.sleep(0)
    then(connection)
    with pytest.raises(HttpError):
        await answer.read(100)
    got = arrived(there)
    there.close()
    return connection, answer, got


def answer_unasked(connection: Connection) -> None:
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")


def test_an_answer_before_the_request_has_left_is_none() -> None:
    connection, answer, got = uvloop.run(spoken_to(0, answer_unasked))
    assert not answer.touched
    assert connection.unsent, "the request may be sent again"
    assert got == b""


@pytest.mark.parametrize(("turns", "unsent"), [(0, True), (2, False)])
def test_a_connection_that_is_lost_knows_whether_the_request_has_left(turns: int, unsent: bool) -> None:
    connection, _, got = uvloop.run(spoken_to(turns, Connection.abort))
    assert connection.unsent is unsent
    assert (got == b"") is unsent
