"""The pool of HTTP/1.1 connections that every request of the launcher goes through.

It knows no redirects, cookies, proxies of the environment or content encodings. `docs/decisions/0035` says why it
is our own.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import aiohappyeyeballs

from launcher.core.errors import Failure, HttpError
from launcher.core.http_connection import Arriving, Connection, Deadline, Incoming, KnownHeads, Limits, explained
from launcher.core.http_request import Headers, Origin, Start, is_address, start
from launcher.core.timers import Timers
from launcher.core.write_queue import WriteQueue

__all__ = ["Arriving", "Connections", "Incoming", "Limits"]

KEEP_ALIVE_S = 4.0
"""Idle connections are closed before common servers do it (uvicorn: 5 s), so that no request meets a closing one."""
HANDSHAKE_S = 86_400.0
"""The timeout of a request ends a handshake of TLS before this."""
EYEBALLS_S = 0.25
"""A host's next address is tried after so long (RFC 8305)."""
RECENT_S = 0.005
"""A connection that answered so shortly before is used without a look at its socket, which costs a system call."""
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})


class _Pool:
    """The connections of one origin: those that are idle, how many there are, and who waits for one."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.places = 0
        self.waiting: deque[asyncio.Future[Connection | None]] = deque()

    def wake(self, connection: Connection | None) -> bool:
        """Give a connection, or its place, to the one who waits longest; return False if there is none."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False


class Connections:
    """Sends requests over at most ``per_origin`` connections to each origin; an async context manager.

    A kept connection may close before a byte of the answer comes. Then the request is sent once more over a fresh one
    if that cannot repeat an effect. Its method is idempotent (RFC 9110, 9.2.2), or a part of it never left this
    process. Any other request fails: the server may have read it, and a completion costs money. With a ``write_queue``
    the requests of one turn of the event loop leave together.
    """

    def __init__(
        self,
        per_origin: int = 100,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        limits: Limits | None = None,
        context: ssl.SSLContext | None = None,
        write_queue: WriteQueue | None = None,
    ) -> None:
        self._per_origin = per_origin
        self._keep_alive_s = keep_alive_s
        self._limits = limits or Limits()
        self._known = KnownHeads()
        self._context = context
        self._write_queue = write_queue
        self._pools: dict[Origin, _Pool] = {}
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._timers = Timers()
        self._opened = False
        self._time: Callable[[], float]
        self._gone = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """The number of sockets that are open."""
        return len(self._all)

    async def __aenter__(self) -> Self:
        self._opened = True
        self._time = asyncio.get_running_loop().time
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._all:
            self._gone.clear()
            for connection in list(self._all):
                connection.abort()
            await self._gone.wait()
        self._timers.close()

    async def send(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes = b"",
        *,
        connect_timeout_s: float = math.inf,
        silence_timeout_s: float = math.inf,
    ) -> Incoming:
        """Send a request; return the answer as soon as its status and headers have arrived. Raises `HttpError`.

        ``silence_timeout_s`` bounds the wait for the headers, and that for each further part of the body.
        """
        to = prepared(method, url, headers)
        return await self.send_to(to, body, connect_timeout_s=connect_timeout_s, silence_timeout_s=silence_timeout_s)

    async def send_to(
        self,
        to: Start,
        body: bytes = b"",
        *,
        connect_timeout_s: float = math.inf,
        silence_timeout_s: float = math.inf,
        total_timeout_s: float | None = None,
    ) -> Incoming:
        """Do as `send` with a request that is prepared.

        ``total_timeout_s`` bounds the whole exchange, with the wait for a connection, until the body is read.
        """
        if not self._opened:
            raise RuntimeError("the connections are used outside of their 'async with' block")
        deadline = None if total_timeout_s is None else Deadline(total_timeout_s)
        for again in (False, True):
            connection = None if again else self.take(to.origin)
            if connection is None:
                connection = await self._connection(to, connect_timeout_s, deadline)
            answer = Incoming(connection, to.method, to.url, silence_timeout_s, deadline)
            stale = connection.used and not again
            connection.ask(answer, to.head(len(body)), body)
            try:
                await answer.head()
                return answer
            except HttpError as error:
                lost = error.failure is Failure.connection and not answer.touched
                if not (stale and lost and (to.method in IDEMPOTENT or connection.unsent)):
                    raise
        raise AssertionError

    def take(self, origin: Origin) -> Connection | None:
        """Return an idle connection to an origin, on which a request must be sent at once; None if there is none."""
        pool = self._pools.get(origin)
        if pool is None:
            return None
        while pool.idle:
            connection = pool.idle.pop()
            if self._is_good(connection):
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection, origin: Origin) -> None:
        """Return a connection that was taken, and on which nothing was sent."""
        pool = self._pools[origin]
        if not connection.closed and not pool.wake(connection):
            pool.idle.append(connection)

    async def _connection(self, to: Start, timeout_s: float, deadline: Deadline | None) -> Connection:
        """Return a fresh connection, or one that another request leaves; those that are idle now are closed."""
        pool = self._pools.setdefault(to.origin, _Pool())
        while pool.idle:
            pool.idle.pop().abort()
        if deadline is None:
            return await self._another(pool, to.origin, to.url, timeout_s)
        try:
            async with asyncio.timeout_at(deadline.at):
                return await self._another(pool, to.origin, to.url, timeout_s)
        except TimeoutError as error:
            raise HttpError(to.url, f"no answer within {deadline.timeout_s:g} s", Failure.timeout) from error

    async def _another(self, pool: _Pool, origin: Origin, url: str, timeout_s: float) -> Connection:
        """Return a new connection, or one that another request leaves."""
        if pool.places < self._per_origin and not pool.waiting:
            pool.places += 1
        elif (handed := await self._wait(pool)) is not None:
            return handed
        try:
            connection = await self._connected(origin, url, timeout_s)
        except BaseException:
            self._free(pool)
            raise
        self._all.add(connection)
        return connection

    def _is_good(self, connection: Connection) -> bool:
        kept_s = self._time() - connection.idle_since
        if kept_s >= connection.keep_alive_s or kept_s >= self._keep_alive_s:
            return False
        return not connection.closed if kept_s < RECENT_S else connection.is_fresh()

    async def _wait(self, pool: _Pool) -> Connection | None:
        """Wait for a connection of the pool, or for the place of one that is gone."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        pool.waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                given = waiter.result()
                self._free(pool) if given is None else self._idle(pool, given)
            raise

    async def _connected(self, origin: Origin, url: str, timeout_s: float) -> Connection:
        try:
            async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                return await self._connect(origin)
        except socket.gaierror as error:
            raise HttpError(url, f"the host has no address: {error.strerror or error}", Failure.connection) from error
        except TimeoutError as error:
            if error.errno:
                raise HttpError(url, explained(error), Failure.connection) from error
            raise HttpError(url, f"no connection within {timeout_s:g} s", Failure.timeout) from error
        except (OSError, ssl.CertificateError) as error:
            raise HttpError(url, explained(error), Failure.connection) from error
        except ValueError as error:  # for instance a host name with a label of 64 characters
            raise HttpError(url, str(error)) from error

    async def _connect(self, origin: Origin) -> Connection:
        pool = self._pools[origin]
        connection = Connection(
            self._limits,
            partial(self._idle, pool),
            partial(self._lost, pool),
            self._known,
            self._timers,
            self._write_queue,
        )
        context = self._tls() if origin.scheme == "https" else None
        sock = await aiohappyeyeballs.start_connection(
            await _addresses(origin), happy_eyeballs_delay=EYEBALLS_S, interleave=1
        )
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=context,
                server_hostname=origin.host.partition("%")[0] if context else None,
                ssl_handshake_timeout=HANDSHAKE_S if context else None,
            )
        except BaseException:
            connection.abort()
            sock.close()
            raise
        if connection.closed:
            raise ConnectionResetError("the server closed the connection at once")
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    def _idle(self, pool: _Pool, connection: Connection) -> None:
        if connection.closed or (pool.waiting and pool.wake(connection)):
            return
        connection.idle_since = self._time()
        pool.idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._keep_alive_s, self._sweep)

    def _lost(self, pool: _Pool, connection: Connection) -> None:
        if connection not in self._all:
            return
        self._all.discard(connection)
        if connection in pool.idle:
            pool.idle.remove(connection)
        self._free(pool)
        if not self._all:
            self._gone.set()

    def _free(self, pool: _Pool) -> None:
        """Give the place of a connection that is gone to the one who waits longest."""
        if not pool.wake(None):
            pool.places -= 1

    def _sweep(self) -> None:
        """Close the connections that were idle for too long."""
        self._sweeper = None
        for pool in self._pools.values():
            for connection in [c for c in pool.idle if not self._is_good(c)]:
                connection.abort()
        if any(pool.idle for pool in self._pools.values()):
            self._sweeper = asyncio.get_running_loop().call_later(self._keep_alive_s / 4, self._sweep)


def prepared(method: str, url: str, headers: Headers) -> Start:
    """Return how requests to a URL begin. Raises `HttpError` if they cannot be sent."""
    try:
        return start(method, url, headers)
    except ValueError as error:
        raise HttpError(url, str(error)) from error


async def _addresses(origin: Origin) -> list[aiohappyeyeballs.AddrInfoType]:
    host, port, kind = origin.host, origin.port, socket.SOCK_STREAM
    if is_address(host):
        return list(socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST))
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=kind))
