"""Takes connections from a listening socket, and lets them end in order when it stops."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

from launcher.asgi.errors import ApiError
from launcher.proxy.connection import ClientConnection
from launcher.proxy.metrics import CONNECTIONS, HEARTBEAT, Counters
from launcher.proxy.service import Service
from launcher.proxy.settings import Proxy

log = logging.getLogger("launcher.proxy")

SPARE_FILES = 64
"""Open files that stay free for anything but connections."""
SWEEP_S = 1.0
"""The longest time between two looks at what takes too long."""
DRAIN_POLL_S = 0.02
LAST_S = 1.0
"""After the deadline of a stop, the time for requests that are cancelled."""


class Front:
    """The side of the proxy that clients see, in one event loop."""

    def __init__(self, settings: Proxy, service: Service, listener: socket.socket, counters: Counters) -> None:
        self._settings = settings
        self._service = service
        self._listener = listener
        self._counters = counters
        self._opening: set[asyncio.Task[object]] = set()
        self._stop: asyncio.Event
        listener.setblocking(False)

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Take connections until ``stop`` is set, and then let requests end; ``ready`` is called once it does."""
        self._stop = stop
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)
        try:
            self._look()  # a process that hangs from now on is found
            ready()
            await self._until_stopped()
        finally:
            loop.remove_reader(self._listener.fileno())
            self._listener.close()
            await self._drain()

    def _accept(self) -> None:
        """Take one connection: a process that has much to do comes back later than one that has little."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("no connection can be taken: %s", error)
            self._pause_accepting()
            return
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        opening = loop.create_task(loop.connect_accepted_socket(lambda: ClientConnection(self._service), connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            opening.exception()  # a client that left at once

    def _pause_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        loop.call_later(SWEEP_S, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if not self._stop.is_set():
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def _until_stopped(self) -> None:
        limits = self._settings.limits
        times = (limits.header_timeout_s, limits.body_timeout_s, self._settings.silence_timeout_s)
        period_s = min(SWEEP_S, *(each / 4 for each in times))
        while not self._stop.is_set():
            self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._stop.wait()

    def _look(self) -> None:
        """Show that this process lives, and end what takes too long."""
        now = asyncio.get_running_loop().time()
        self._counters.own[HEARTBEAT] = int(now) + 1
        self._counters.own[CONNECTIONS] = len(self._service.connections)
        self._service.sweep(now)

    async def _drain(self) -> None:
        """Let requests end, for ``stop_timeout_s`` at most."""
        self._service.drain()
        await self._until_empty(self._settings.stop_timeout_s)
        if left := list(self._service.connections):
            message = (
                f"the proxy ends, and this took longer than proxy.stop_timeout_s={self._settings.stop_timeout_s:g}"
            )
            log.warning("%d connections are cut: %s", len(left), message)
            for connection in left:
                connection.cut(ApiError(503, message, code="proxy_ended"))
        await self._until_empty(LAST_S)

    async def _until_empty(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (self._service.connections or self._opening) and loop.time() < deadline:
            self._look()
            await asyncio.sleep(DRAIN_POLL_S)


def most_connections(settings: Proxy) -> int:
    """Return how many clients fit, with their connections to the endpoint, within the limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.limits.connections + settings.upstream_connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return settings.limits.connections
    return min(settings.limits.connections, max(1, (soft - SPARE_FILES) // 2))
