"""Serve an ASGI app on a port, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from launcher.asgi.config import Limits
from launcher.asgi.protocol import LimitedProtocol, most_connections
from launcher.core.errors import ServerError, UserError
from launcher.core.logs import file_handler

KEEP_ALIVE_S = 75
"""How long idle connections stay open, so that a client's pool survives a pause between bursts."""
SHUTDOWN_MARGIN_S = 5.0
"""After the deadline for requests, the time for a stopping server to end its thread."""


def bind(host: str, port: int, group: str = "backend") -> socket.socket:
    """Reserve a port, 0 for any free one, without listening on it yet; ``group`` has the settings.

    Raises `UserError`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"{group}.host={host}: {error.strerror}; must be an address of this machine") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(_why(group, host, port, error)) from None
    return bound


def _why(group: str, host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{group}.port={port}: taken by another program; choose another, or {group}.port=0 for any free one"
    if error.errno == errno.EACCES:
        return (
            f"{group}.port={port}: not allowed to this user; choose one from 1024, or {group}.port=0 for any free one"
        )
    return f"{group}.host={host}: cannot listen there ({error.strerror}); must be an address of this machine"


@contextmanager
def server_log(path: Path, process: str = "server") -> Iterator[logging.Logger]:
    """Open a log file for one server: its access log, and uvicorn's log lines from the server's thread."""
    handler = file_handler(path, process)
    log = logging.Logger("launcher.server", logging.INFO)
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()


@contextmanager
def serving(
    app: ASGIApp, bound: socket.socket, log: logging.Logger, stop_timeout_s: float, limits: Limits | None = None
) -> Iterator[None]:
    """Serve ``app`` on a bound socket, within ``limits``; clients can connect at once.

    On leaving, requests have ``stop_timeout_s`` seconds to end before they are cancelled; then the thread is gone and
    the port closed. Raises `ServerError` if the thread does not end.
    """
    bound.listen(2048)
    server = uvicorn.Server(_config(app, stop_timeout_s, limits or Limits()))
    thread = threading.Thread(target=_run, args=(server, bound, log), name="server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(stop_timeout_s + SHUTDOWN_MARGIN_S)
        bound.close()
        if thread.is_alive():
            raise ServerError(f"the server did not stop within {stop_timeout_s + SHUTDOWN_MARGIN_S:g} s")


def _config(app: ASGIApp, stop_timeout_s: float, limits: Limits) -> uvicorn.Config:
    protocol = partial(LimitedProtocol, limits=limits, most=most_connections(limits))
    return uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=stop_timeout_s,  # type: ignore[arg-type]  # asyncio.wait_for takes any number
    )


def _run(server: uvicorn.Server, bound: socket.socket, log: logging.Logger) -> None:
    with bound, _uvicorn_to(log), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(server.serve(sockets=[bound]))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import Loop
    except ImportError:
        return None
    return Loop  # type: ignore[no-any-return]


@contextmanager
def _uvicorn_to(log: logging.Logger) -> Iterator[None]:
    """Send uvicorn's log records from this thread to ``log``, so that each server of a process has its own log."""
    mine = threading.get_ident()
    source = logging.getLogger("uvicorn.error")
    handler = log.handlers[0]
    forward = _Forward(handler, mine)
    source.addHandler(forward)
    source.setLevel(logging.INFO)
    source.propagate = False
    try:
        yield
    finally:
        source.removeHandler(forward)


class _Forward(logging.Handler):
    """Forwards the records of one thread."""

    def __init__(self, target: logging.Handler, thread: int) -> None:
        super().__init__()
        self._target = target
        self._thread = thread

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._target.handle(record)
