"""A server on a port, and clients that write bytes of their own choice to it."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from launcher.api.app import create_app
from launcher.asgi.config import FrontendConfig, Limits
from launcher.asgi.server import bind, server_log, serving
from launcher.engines.base import AsyncEngine
from launcher.engines.echo import Echo, EchoAsyncEngine
from launcher.settings.model import Model

PATIENCE_S = 60
Address = tuple[str, int]


@dataclass
class Server:
    address: Address
    log: Path


@contextmanager
def server(runner: AsyncEngine | None = None, key: str | None = None, **limits: float) -> Iterator[Server]:
    frontend = FrontendConfig(key, limits=Limits(**limits))  # type: ignore[arg-type]
    with (
        tempfile.TemporaryDirectory() as folder,
        bind("127.0.0.1", 0) as bound,
        server_log(Path(folder) / "log") as log,
        serving(
            create_app(runner or EchoAsyncEngine(Echo(), Model("echo")), frontend=frontend, log=log),
            bound,
            log,
            1.0,
            frontend.limits,
        ),
    ):
        yield Server(bound.getsockname()[:2], Path(folder) / "log")


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(address, PATIENCE_S) as connection:
        yield connection


def said(connection: socket.socket) -> bytes:
    """Return all that the server says until it closes."""
    found = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def answer_to(address: Address, *parts: bytes) -> bytes:
    """Send parts, and return all that the server says until it closes."""
    with connected(address) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        return said(connection)


def dripped(connection: socket.socket, part: bytes, times: int = 3000) -> bytes:
    """Send the same again and again until the server closes; return what it said. Fail if it never does."""
    pause = Event()
    for _ in range(times):
        try:
            connection.sendall(part)
        except OSError:
            return b""
        connection.settimeout(0.02)
        with suppress(TimeoutError):
            try:
                first = connection.recv(65536)
            except ConnectionResetError:
                return b""
            connection.settimeout(PATIENCE_S)
            return first + (said(connection) if first else b"")
        connection.settimeout(PATIENCE_S)
        pause.wait(0.001)
    raise AssertionError("the server accepts this without a limit")


def statuses(data: bytes) -> list[int]:
    """Return the status of each answer in what a server said; bodies have no such line."""
    return [int(status) for status in re.findall(rb"HTTP/1\.\d (\d{3}) ", data)]


def ids(data: bytes) -> list[str]:
    """Return the request id of each answer in what a server said."""
    return [found.decode() for found in re.findall(rb"\r\nx-request-id: (\S+)\r\n", data)]


def error(data: bytes) -> dict[str, object]:
    """Return the error of the last answer."""
    return json.loads(data.rpartition(b"\r\n\r\n")[2])["error"]


def request(body: dict[str, object], *headers: str, path: str = "/v1/completions", version: str = "1.1") -> bytes:
    data = json.dumps({"model": "echo", "prompt": "abc", "max_tokens": 2} | body).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data
