"""Every answer that a server can give is read as it is, or one error in time; no socket is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest
import uvloop
from aiohttp import web
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from launcher.asgi.server import bind, server_log, serving
from launcher.core.connections import Connections, Incoming
from launcher.core.errors import Failure, HttpError
from launcher.core.http_connection import Connection
from tests.core.answers import ANSWERS, CHUNKED, OK, TWO

pytestmark = [
    pytest.mark.usefixtures("no_socket_is_left"),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture:DeprecationWarning"),
]
Reply = Callable[["Peer"], Awaitable[None]]


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request):
    return request.param()


@pytest.fixture
def no_socket_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every pool of a test ends without a connection, each of which was told that it is lost."""
    open_now: set[Connection] = set()
    made, lost = Connection.connection_made, Connection.connection_lost

    def connection_made(self: Connection, transport: asyncio.BaseTransport) -> None:
        open_now.add(self)
        made(self, transport)

    def connection_lost(self: Connection, exc: Exception | None) -> None:
        open_now.discard(self)
        lost(self, exc)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    monkeypatch.setattr(Connection, "connection_lost", connection_lost)
    yield
    assert not open_now


@dataclass
class Peer:
    """A server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Which connection it is, from 0."""

    async def request(self) -> tuple[bytes, bytes]:
        """Read a request; return its head and body. Raises `IncompleteReadError` if the client leaves."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((int(ln[15:]) for ln in head.split(b"\r\n") if ln.lower().startswith(b"content-length:")), 0)
        return head, await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def left(self) -> bool:
        """Wait until the client has left; what it says before is read."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        return True


@dataclass
class Raw:
    """A server that does what ``reply`` says with each connection."""

    port: int
    context: ssl.SSLContext | None = None
    peers: list[Peer] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.port}/v1"


@asynccontextmanager
async def raw(reply: Reply, context: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        here.peers.append(Peer(reader, writer, len(here.peers)))
        try:
            await reply(here.peers[-1])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    here = Raw(server.sockets[0].getsockname()[1], context)
    try:
        yield here
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def once(data: bytes) -> Reply:
    """Return a server that answers one request of each connection, and closes it."""

    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)

    return reply


def always(data: bytes) -> Reply:
    async def reply(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(data)

    return reply


async def ask(
    connections: Connections, server: Raw, method: str = "GET", body: bytes = b"", silence_timeout_s: float = 60.0
) -> Incoming:
    return await connections.send(
        method, server.url, [], body, connect_timeout_s=60, silence_timeout_s=silence_timeout_s
    )


async def body_of(connections: Connections, server: Raw, method: str = "GET", body: bytes = b"") -> bytes:
    return await (await ask(connections, server, method, body)).read(1 << 20)


@pytest.mark.parametrize(("said", "body", "kept"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_read_and_its_connection_kept_if_it_can_be(said, body, kept) -> None:
    async def reply(peer: Peer) -> None:
        await always(said)(peer) if kept else await once(said)(peer)

    async with raw(reply) as server, Connections() as connections:
        assert [await body_of(connections, server) for _ in range(3)] == [body] * 3
    assert len(server.peers) == (1 if kept else 3)


MALFORMED = {
    "garbage": b"\x00\x01garbage",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "low status": b"HTTP/1.1 42 OK\r\nContent-Length: 2\r\n\r\nab",
    "version": b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nab",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "negative length": OK + b"Content-Length: -2\r\n\r\nab",
    "huge length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nab",
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nab",
    "name with a space": OK + b"A b: c\r\nContent-Length: 2\r\n\r\nab",
    "null": OK + b"A: \0\r\nContent-Length: 2\r\n\r\nab",
    "chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nab\r\n0\r\n\r\n",
    "chunk end": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabX0\r\n\r\n",
    "huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nab",
    "many headers": OK + b"A: b\r\n" * 300 + b"Content-Length: 2\r\n\r\nab",
    "long header": OK + b"A: " + b"b" * 70_000 + b"\r\nContent-Length: 2\r\n\r\nab",
    "endless header": OK + b"A: " + b"b" * 200_000,
    "endless interim": b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n" * 10_000,
    "long trailer": CHUNKED[:-2] + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
    "long extension": OK + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 300_000 + b"\r\nab\r\n0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_answer_is_one_error(said: bytes) -> None:
    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(said)
        if said:
            await peer.left()

    async with raw(reply) as server, Connections() as connections:
        with pytest.raises(HttpError) as raised:
            await body_of(connections, server)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(server.url + ": ")
        assert raised.value.failure in (Failure.answer, Failure.connection)
        await asyncio.sleep(0)
        assert connections.open_connections == 0


@pytest.mark.parametrize("said", [TWO, CHUNKED], ids=["length", "chunked"])
async def test_a_server_that_closes_at_any_byte_is_an_error_or_has_answered(said: bytes) -> None:
    async def reply(peer: Peer) -> None:
        await once(said[: peer.number])(peer)

    async with raw(reply) as server, Connections() as connections:
        for _ in range(len(said)):
            with pytest.raises(HttpError, match="the server closed the connection") as raised:
                await body_of(connections, server, "POST", b"{}")
            assert raised.value.failure is Failure.connection
        assert await body_of(connections, server, "POST", b"{}") == (b"ab" if said == TWO else b"abcde")
    assert len(server.peers) == len(said) + 1


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_the_answer_to_head_has_no_body(method: str) -> None:
    said = TWO if method == "GET" else TWO.removesuffix(b"ab")
    async with raw(always(said)) as server, Connections() as connections:
        for _ in range(2):
            assert await body_of(connections, server, method) == said[len(TWO) - 2 :]
    assert len(server.peers) == 1


def closes_the_second(peer_reads: bool) -> Reply:
    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(TWO)
        if peer.number == 0:
            if peer_reads:
                await peer.request()
            return
        await always(TWO)(peer)

    return reply


@pytest.mark.parametrize(("method", "answered"), [("GET", True), ("HEAD", False), ("PUT", True), ("POST", False)])
async def test_a_request_is_sent_again_only_if_that_repeats_no_effect(method: str, answered: bool) -> None:
    async with raw(closes_the_second(peer_reads=True)) as server, Connections() as connections:
        assert await body_of(connections, server) == b"ab"
        if method == "POST":
            with pytest.raises(HttpError, match="without an answer") as raised:
                await body_of(connections, server, method, b"{}")
            assert raised.value.failure is Failure.connection
        else:
            assert await body_of(connections, server, method) == (b"ab" if answered else b"")
    assert len(server.peers) == (1 if method == "POST" else 2)


async def test_a_post_that_never_left_in_full_is_sent_again() -> None:
    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(TWO)
        if peer.number == 0:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.writer.transport.abort()

    async with raw(reply) as server, Connections() as connections:
        assert await body_of(connections, server) == b"ab"
        assert await body_of(connections, server, "POST", b"x" * (64 << 20)) == b"ab"
    assert len(server.peers) == 2


async def test_a_fresh_connection_that_closes_is_asked_once() -> None:
    async with raw(once(b"")) as server, Connections() as connections:
        with pytest.raises(HttpError, match="without an answer"):
            await body_of(connections, server)
    assert len(server.peers) == 1


async def test_a_connection_that_the_server_closed_is_not_used_for_a_post() -> None:
    closed = asyncio.Event()

    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(TWO)
        if peer.number == 0:
            peer.writer.close()
            await peer.writer.wait_closed()
            closed.set()
        else:
            await always(TWO)(peer)

    async with raw(reply) as server, Connections() as connections:
        answer = await ask(connections, server)
        assert await answer.read(2) == b"ab"
        await closed.wait()
        await asyncio.sleep(0.01)
        assert await body_of(connections, server, "POST", b"{}") == b"ab"
    assert len(server.peers) == 2


async def test_bytes_that_nobody_asked_for_answer_no_later_request() -> None:
    poisoned = asyncio.Event()

    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(TWO)
        if peer.number == 0:
            await peer.say(OK + b"Content-Length: 4\r\n\r\nevil")
            poisoned.set()
        await always(TWO)(peer)

    async with raw(reply) as server, Connections() as connections:
        assert await body_of(connections, server) == b"ab"
        await poisoned.wait()
        await asyncio.sleep(0.01)
        assert await body_of(connections, server, "POST", b"{}") == b"ab"
    assert len(server.peers) == 2


@pytest.mark.parametrize(("server_says", "ours"), [(b"timeout=1", 60.0), (b"timeout=9, max=2", 0.01)])
async def test_an_idle_connection_is_used_as_long_as_both_sides_keep_it(server_says: bytes, ours: float) -> None:
    said = OK + b"Keep-Alive: " + server_says + b"\r\nContent-Length: 2\r\n\r\nab"
    async with raw(always(said)) as server, Connections(keep_alive_s=ours) as connections:
        assert await body_of(connections, server) == b"ab"
        await asyncio.sleep(0.6 if ours > 1 else 0.05)
        assert await body_of(connections, server) == b"ab"
    assert len(server.peers) == 2


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with raw(always(TWO)) as server, Connections(keep_alive_s=0.05) as connections:
        await asyncio.gather(*(body_of(connections, server) for _ in range(3)))
        assert connections.open_connections == 3
        while connections.open_connections:
            await asyncio.sleep(0.01)


async def test_no_more_connections_are_open_than_the_limit_and_all_are_served() -> None:
    most = 0

    async def reply(peer: Peer) -> None:
        nonlocal most
        while True:
            await peer.request()
            most = max(most, connections.open_connections)
            await asyncio.sleep(0)
            await peer.say(TWO)

    async with raw(reply) as server, Connections(3) as connections:
        assert await asyncio.gather(*(body_of(connections, server) for _ in range(50))) == [b"ab"] * 50
    assert (len(server.peers), most) == (3, 3)


async def test_a_request_that_is_cancelled_leaves_its_place_and_its_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def reply(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            asked.set()
            await peer.left()
            left.set()
        else:
            await peer.say(TWO)
            await always(TWO)(peer)

    async with raw(reply) as server, Connections(1) as connections:
        first = asyncio.create_task(ask(connections, server))
        await asked.wait()
        waiting = [asyncio.create_task(body_of(connections, server)) for _ in range(4)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        first.cancel()
        waiting[2].cancel()
        await left.wait()
        assert await waiting[1] == await waiting[3] == b"ab"
        assert await asyncio.gather(first, waiting[0], waiting[2], return_exceptions=True)


@pytest.mark.parametrize("how", ["cancel", "close", "leave"])
async def test_who_leaves_in_the_middle_of_a_body_ends_the_servers_work(how: str) -> None:
    left, taken = asyncio.Event(), asyncio.Event()

    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"Content-Length: 5\r\n\r\nab")
        await peer.left()
        left.set()

    async def leave(answer: Incoming) -> None:
        async for part in answer.chunks():
            assert part == b"ab"
            taken.set()
            if how == "leave":
                break

    async with raw(reply) as server, Connections() as connections:
        answer = await ask(connections, server)
        reading = asyncio.create_task(leave(answer))
        if how != "leave":
            await taken.wait()
            answer.close() if how == "close" else reading.cancel()
        await left.wait()
        await asyncio.gather(reading, return_exceptions=True)
        assert connections.open_connections == 0


@pytest.mark.parametrize("said", [b"", OK, OK + b"Content-Length: 5\r\n\r\nab"], ids=["nothing", "head", "body"])
async def test_a_server_that_falls_silent_is_one_error(said: bytes) -> None:
    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(said)
        await peer.left()

    async with raw(reply) as server, Connections() as connections:
        with pytest.raises(HttpError, match=r"within 0\.1 s") as raised:
            await (await ask(connections, server, silence_timeout_s=0.1)).read(100)
        assert raised.value.failure is Failure.timeout


async def test_a_server_that_never_shakes_hands_is_one_error() -> None:
    async def reply(peer: Peer) -> None:
        await peer.left()

    async with raw(reply) as server, Connections() as connections:
        with pytest.raises(HttpError, match=r"no connection within 0\.1 s") as raised:
            await connections.send(
                "GET", server.url.replace("http", "https"), [], connect_timeout_s=0.1, silence_timeout_s=60
            )
        assert raised.value.failure is Failure.timeout


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "Connection refused"),
        ("http://no-such-host.invalid/", "the host has no address"),
        ("http://user:s3cret@127.0.0.1:1/", "Connection refused"),
        ("ftp://h/", "neither http nor https"),
        (f"http://{'a' * 70}.example/", "host|label"),
    ],
)
async def test_who_cannot_be_reached_is_one_error(url: str, why: str) -> None:
    async with Connections() as connections:
        with pytest.raises(HttpError, match=why) as raised:
            await connections.send("GET", url, [], connect_timeout_s=60, silence_timeout_s=60)
        assert "s3cret" not in str(raised.value)


async def test_a_reader_that_waits_holds_the_server_back() -> None:
    size, part = 32 << 20, b"x" * (1 << 16)

    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(part)):
            await peer.say(part)
        await always(TWO)(peer)

    async with raw(reply) as server, Connections() as connections:
        answer = await ask(connections, server)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert 0 < answer.received < 4 << 20
        assert len(await answer.read(size)) == size
        assert await body_of(connections, server) == b"ab"
    assert len(server.peers) == 1


async def test_a_body_is_read_up_to_a_bound() -> None:
    async def reply(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"\r\n")
        while True:
            await peer.say(b"x" * 10_000)

    async with raw(reply) as server, Connections() as connections:
        answer = await ask(connections, server)
        with pytest.raises(HttpError, match="more than 100,000 bytes"):
            await answer.read(100_000)
        assert answer.received < 8 << 20


async def test_a_server_that_answers_before_the_body_is_sent_is_heard() -> None:
    async def reply(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        peer.writer.write_eof()
        await peer.left()

    async with raw(reply) as server, Connections() as connections:
        answer = await ask(connections, server, "POST", b"x" * (64 << 20))
        assert (answer.status, await answer.read(10)) == (413, b"no")
        await asyncio.sleep(0)
        assert connections.open_connections == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    order = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -keyout {key} -out {made}"
    )
    subprocess.run(
        [*order.split(), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    return key, made


async def test_tls_is_checked_against_the_certificates_of_the_machine(certificate) -> None:
    key, made = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    trusting = ssl.create_default_context(cafile=str(made))
    async with raw(always(CHUNKED), context) as server:
        async with Connections(context=trusting) as connections:
            assert [await body_of(connections, server, "POST", b"{}") for _ in range(3)] == [b"abcde"] * 3
            assert len(server.peers) == 1
            with pytest.raises(HttpError, match="certificate of the server is not accepted"):
                await connections.send(
                    "GET", f"https://127.0.0.1:{server.port}/", [], connect_timeout_s=60, silence_timeout_s=60
                )
        async with Connections() as connections:
            with pytest.raises(HttpError, match="certificate of the server is not accepted") as raised:
                await body_of(connections, server)
    assert raised.value.failure is Failure.connection


async def echo(request):
    data = await request.body()

    async def parts():
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return StreamingResponse(parts()) if len(data) % 2 else JSONResponse({"bytes": len(data)})


@contextmanager
def ours(tmp_path) -> Iterator[str]:
    bound = bind("127.0.0.1", 0)
    app = Starlette(routes=[Route("/v1", echo, methods=["POST"])])
    with server_log(tmp_path / "server.log") as log, serving(app, bound, log, 1.0):
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@asynccontextmanager
async def of_aiohttp() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        data = await request.read()
        if len(data) % 2 == 0:
            return web.json_response({"bytes": len(data)})
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(data), 1000):
            await response.write(data[start : start + 1000])
        return response

    app = web.Application()
    app.router.add_post("/v1", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("server", ["ours", "aiohttp"])
async def test_real_servers_are_understood(server: str, tmp_path) -> None:
    async def post(size: int) -> None:
        body = bytes(i % 251 for i in range(size))
        answer = await connections.send("POST", url, [], body, connect_timeout_s=60, silence_timeout_s=60)
        found = await answer.read(1 << 20)
        assert answer.status == 200
        assert found == body if size % 2 else json.loads(found) == {"bytes": size}

    async with AsyncExitStack() as stack:
        running = ours(tmp_path)
        url = stack.enter_context(running) if server == "ours" else await stack.enter_async_context(of_aiohttp())
        connections = await stack.enter_async_context(Connections(8))
        await asyncio.gather(*(post(size) for size in [*range(60), *range(90_001, 90_011)]))
        assert connections.open_connections == 8
